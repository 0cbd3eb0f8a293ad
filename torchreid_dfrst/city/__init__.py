"""A synthetic city in VeRi-776's own format: parametric vehicles, cameras, roads and trips, from one seed."""

from torchreid_dfrst.city.make import make_city
from torchreid_dfrst.city.plan import Plan, Settings, Shot, plan_city
from torchreid_dfrst.city.render import render
from torchreid_dfrst.city.vehicles import Vehicle, make_vehicles

__all__ = ["Plan", "Settings", "Shot", "Vehicle", "make_city", "make_vehicles", "plan_city", "render"]
