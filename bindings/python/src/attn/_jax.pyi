"""The handlers that jax_handler.c gives to XLA, as capsules."""

from typing import Any

instantiate: Any
execute: Any
plan_type_id: Any
plan_type_info: Any

def use(address: int, /) -> None: ...
