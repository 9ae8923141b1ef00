"""Packages that seem to be installed."""

import os
from pathlib import Path

SIGNALS = ("traces", "metrics", "logs")


class Site:
    """A folder of packages that seem to be installed, before all others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        outer = os.environ.get("PYTHONPATH", "")
        self.environment = {"PYTHONPATH": f"{folder}{os.pathsep}{outer}".rstrip(os.pathsep)}

    def add(self, name, version="1.0", **points):
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        groups = [f"[{group}]\n{line}\n" for group, line in points.items()]
        (info / "entry_points.txt").write_text("\n".join(groups))

    def add_grpc_exporter(self, module=""):
        (self.folder / "made_up_exporter.py").write_text(module)
        line = "otlp_proto_grpc = made_up_exporter:Exporter"
        groups = {f"opentelemetry_{signal}_exporter": line for signal in SIGNALS}
        self.add("opentelemetry-exporter-otlp-proto-grpc", **groups)
