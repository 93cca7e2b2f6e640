"""The command ``strength``: one virtual test of a bone that the user already has as an image and a mask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.console import ALL_DONE, SOME_REFUSED, escaped, out_console, talk

commands = typer.Typer()


@commands.command()
def strength(
    image: Annotated[
        Path,
        typer.Argument(
            help="Image in HU, or in mg/cm3 with --density: NIfTI, MHA, NRRD, ..., or DICOM (folder, zip).",
            show_default=False,
        ),
    ],
    mask: Annotated[Path, typer.Option(help="Label map on the same grid, or a DICOM segmentation.")],
    test: Annotated[str, typer.Option(help="spine-compression, hip-sideways-fall or hip-stance.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results; made if absent.")],
    label: Annotated[
        int | None,
        typer.Option(help="Number of the label or segment in the mask; may be left out if the mask holds only one."),
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Strength profile by name, or a profile file.")] = None,
    density: Annotated[bool, typer.Option("--density", help="The image is mineral density in mg/cm3.")] = False,
    mineral: Annotated[
        str, typer.Option(help="With --density: what the density is equivalent to, K2HPO4 or HA (hydroxyapatite).")
    ] = "K2HPO4",
    calibration: Annotated[
        str | None,
        typer.Option(help="Of HU: calibration file (JSON), or a method: phantom, internal, kvp; automatic if absent."),
    ] = None,
    voxel_mm: Annotated[
        float, typer.Option("--voxel", min=0.5, max=2.0, help="Edge of the model's voxels in mm.")
    ] = 1.0,
    with_yield: Annotated[
        bool, typer.Option("--yield", help="Also the elastic-plastic curve; seconds for a body, more for a femur.")
    ] = False,
    internal_rotation: Annotated[
        float, typer.Option(min=-45.0, max=60.0, help="Of the neck in a fall to the side, in degrees.")
    ] = 15.0,
    adduction: Annotated[float, typer.Option(min=-30.0, max=30.0, help="Of the shaft in a fall, in degrees.")] = 10.0,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Uncertainty from 16 varied tests instead of first order.")
    ] = False,
    export: Annotated[
        str, typer.Option(help="Formats of the model, with commas: npz, vti (ParaView), inp (CalculiX).")
    ] = "npz",
    pictures: Annotated[bool, typer.Option(help="Draw cut planes, surface and curve.")] = True,
) -> None:
    """One virtual strength test from an image and a mask; writes strength.json, the model and pictures.

    Example: openbct strength density.nii.gz --mask labels.nii.gz --label 20 --test spine-compression --density -o out
    """
    from pipeline.strength import FallPosture
    from pipeline.strength.command import run_strength_command

    result = run_strength_command(
        image,
        mask,
        output,
        test=test,
        label=label,
        profile=profile,
        is_density=density,
        mineral=mineral,
        calibration=calibration,
        posture=FallPosture(internal_rotation, adduction),
        voxel_mm=voxel_mm,
        with_yield=with_yield,
        ensemble=ensemble,
        exports=tuple(name.strip() for name in export.split(",") if name.strip()),
        pictures=pictures,
    )
    out_console.print_json(json.dumps(result, default=str))
    if result["strength_n"] is None:
        for finding in (f for f in result["findings"] if f["severity"] == "failure"):
            talk.print(f"no strength: {escaped(finding['text'])} ({finding['code']})", soft_wrap=True, highlight=False)
    raise typer.Exit(ALL_DONE if result.get("stiffness_n_mm") is not None else SOME_REFUSED)
