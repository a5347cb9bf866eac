"""``odedeploy inspect``."""

from __future__ import annotations

from odedeploy.cli import output
from odedeploy.cli.options import File, Json


def inspect(path: File, as_json: Json = False) -> None:
    """Show what an exported file says of itself."""
    with output.working() as progress:
        progress("reading", 0, 0)
        from odedeploy import api

        content = api.inspect(path)
    if as_json:
        output.emit(content)
        return
    from odedeploy.cli import summary
    from odedeploy.manifest import Manifest

    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    output.show(
        *summary.of(Manifest.from_json(content)),
        f"\nMade with {versions}.\nsha256 {content['sha256']}",
    )
