"""What scanned planes show."""

from __future__ import annotations

from pathlib import Path

from .common import say


def surface(
    records: list[str], *, value: str = "loss", persistence: float | None = None, vtk: bool = False
) -> None:
    """Say which minima scanned planes show, at which heights these join, and how rough the planes are.

    Args:
        value: what of the record: loss, or another that was scanned, such as "test loss".
        persistence: how far the value must rise from a minimum that counts; by default by more than the error of sampling.
        vtk: write the planes for ParaView too.
    """
    from analysis import roughness, topology

    from ..plots import plot_merge_tree, plot_persistence, save_axes
    from ..results import Surface
    from ..tables import show_topology

    for name in records:
        plane, base = Surface.load(name), Path(name).with_suffix("")
        found = topology(plane, value=value)
        found.save(base.with_name(f"{base.name}.topology.npz"))
        kept = found.significant(persistence)
        show_topology(kept, roughness(plane, value=value, persistence=persistence))
        save_axes(plot_persistence(found), base.with_name(f"{base.name}.persistence"))
        save_axes(plot_merge_tree(kept), base.with_name(f"{base.name}.tree"))
        if vtk:
            from ..vtk import save_vtk

            say("for ParaView: " + ", ".join(map(str, save_vtk(plane, base.with_name(f"{base.name}.vtu")))))
        say(f"record and figures: {base}.*")
