# SPDX-License-Identifier: Apache-2.0
"""``sparsec inspect``: what a model is made of, or what an artifact was made into."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from sparsec.cli.parameters import PATH, debug_option, json_option, shape_option
from sparsec.cli.tables import fidelity_lines, print_json, print_layers, print_line, print_table
from sparsec.compiler.text import in_bytes, in_count, in_percent, shortened


@click.command("inspect", short_help="Show the layers of a model or an artifact.")
@click.argument("path", type=PATH, metavar="MODEL|ARTIFACT")
@shape_option
@json_option
@debug_option
def inspect_command(path: Path, shapes: Mapping[str, tuple[int, ...]], as_json: bool) -> None:
    """Show the layers of a model, with the zeros found in them, or those of an artifact."""
    if path.is_dir() and shapes:
        msg = "--shape goes with a model; the shapes of an artifact are fixed."
        raise click.UsageError(msg)
    (_artifact if path.is_dir() else _model)(path, dict(shapes), as_json)


def _artifact(path: Path, shapes: Mapping[str, tuple[int, ...]], as_json: bool) -> None:
    from sparsec.compiler.load import load
    from sparsec.compiler.report import LAYER_KEYS, check

    artifact = load(path)
    report, manifest = artifact.report(), artifact.manifest
    check(report, str(path))
    layers = [{key: layer[key] for key in LAYER_KEYS} for layer in report["layers"]]
    sizes = {"code_bytes": manifest.code_bytes, "weight_bytes": manifest.weight_bytes}
    profile = report.get("profile")
    if as_json:
        facts = {"target": str(manifest.target), "threads": manifest.threads}
        print_json({**facts, **sizes, "profile": profile, "layers": layers})
        return
    print_line(f"{manifest.name} for {manifest.target}, by sparsec {manifest.sparsec}")
    for kind, ports in (("input", manifest.inputs), ("output", manifest.outputs)):
        for port in ports:
            print_line(f"{kind:11}{shortened(port.name)} {port.dtype} {_sides(port.shape)}")
    print_line(f"sizes      code {in_bytes(manifest.code_bytes)}, weights {in_bytes(manifest.weight_bytes)}, "
               f"scratch memory {in_bytes(manifest.arena_bytes)}")  # fmt: skip
    if manifest.threads > 1:
        print_line(f"threads    {manifest.threads} run it together; prices are for one")
    if profile is not None:
        print_line(f"prices     for {profile['machine']}{_SOURCES.get(profile['source'], '')}{_elsewhere(profile)}")
    for step in report["steps"]:
        print_line(f"pass       {step['text']}")
    for line in fidelity_lines(report["steps"]):
        print_line(f"fidelity   {line}")
    print_layers(layers)


_SOURCES = {"built-in": ", as sparsec comes with it", "file": ", from the profile that was given"}


def _elsewhere(profile: Mapping[str, Any]) -> str:
    from sparsec.compiler.machine_profile import cpu_name

    return "" if profile["cpu"] == cpu_name() else "; not measured here"


def _model(path: Path, shapes: Mapping[str, tuple[int, ...]], as_json: bool) -> None:
    data = describe(path, shapes)
    if as_json:
        print_json(data)
        return
    print_line(f"{path.name}, opset {data['opset']}")
    for kind in ("input", "output"):
        for port in data[f"{kind}s"]:
            print_line(f"{kind:11}{shortened(port['name'])} {port['type']} {_sides(port['shape'])}")
    print_line(f"weights    {in_count(data['parameters'])}, {in_bytes(data['weight_bytes'])}, "
               f"{in_percent(data['zeros'])} zeros in layers")  # fmt: skip
    print_line(f"work       {in_count(data['macs'])} multiply-adds a run")
    for note in data["notes"]:
        print_line(f"note       {note}")
    headings = ("layer", "operator", "weight", "parameters", "bits", "multiply-adds", "zeros", "pattern")
    print_table(headings, map(_row, data["layers"]), (3, 4, 5, 6))


def describe(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """A model as JSON values: ports, opset, sizes, and each layer that multiplies and adds.

    Raises:
        ModelError: As the import of a model.
    """
    from dataclasses import asdict

    from sparsec.compiler.exchange import from_qdq
    from sparsec.compiler.graph import dtype_of, shape_of
    from sparsec.compiler.importers import load_model
    from sparsec.compiler.importers.reading import read_proto
    from sparsec.compiler.survey import survey

    notes: list[str] = []
    model = from_qdq(load_model(path, shapes, notes.append))
    found = survey(model)
    ports = {"inputs": model.graph.inputs, "outputs": model.graph.outputs}
    return {
        **{
            kind: [{"name": str(v.name), "type": dtype_of(v), "shape": list(shape_of(v))} for v in values]
            for kind, values in ports.items()
        },
        "opset": next((entry.version for entry in read_proto(path).opset_import if entry.domain in ("", "ai.onnx")), 0),
        "parameters": found.parameters,
        "weight_bytes": found.weight_bytes,
        "zeros": found.zeros,
        "macs": found.macs,
        "layers": [asdict(layer) for layer in found.layers],
        "notes": notes,
    }


def _row(layer: Mapping[str, Any]) -> tuple[str, ...]:
    weighted = bool(layer["parameters"])
    return (
        shortened(layer["name"], 50),
        layer["op"],
        _sides(layer["shape"]) if weighted else "-",
        in_count(layer["parameters"]) if weighted else "-",
        str(layer["bits"]) if weighted else "-",
        in_count(layer["macs"]),
        in_percent(1 - layer["density"]) if weighted else "-",
        layer["pattern"] if weighted else "-",
    )


def _sides(shape: Any) -> str:
    return "x".join(map(str, shape)) or "scalar"
