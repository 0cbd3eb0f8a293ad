"""Entry scripts; each is also a console command of the installed package."""
