"""Calibration plates painted with numpy, apart from the phantoms package: rods of any product, aslant, cut, noisy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from pipeline.density.rods import known_phantoms
from pipeline.segmentation.model import Segmentation
from pipeline.volume import Acquisition, Grid, Volume

GAIN = 1.37
"""HU per mg/cm3 of mineral in all scenes."""


def rod_hu(product, gain=GAIN):
    """What the rods of a product read on a scanner with that gain and 0 HU at zero density."""
    definition = known_phantoms()[product]
    density = np.array(definition.density_mg_cm3)
    if definition.water_mg_cm3 is None:
        return gain * density
    return np.array(definition.water_mg_cm3) - 999.6 + (gain + 0.2174) * density


def plate_scene(
    *plates,
    slice_mm=2.5,
    pixel_mm=1.0,
    length_mm=45.0,
    pitch_deg=0.0,
    yaw_deg=0.0,
    roll_deg=0.0,
    radius_mm=9.0,
    step_mm=28.0,
    plastic_hu=-110.0,
    noise_hu=14.0,
    fine_noise=False,
    aside_mm=0.0,
    cushion_mm=3.0,
    ends_at_mm=np.inf,
    columns=slice(None),
    steps=None,
    arc_mm=0.0,
    bubbles=0,
    streak_hu=0.0,
):
    """The back of a body of water and fat on one or more plates (rod HU from the patient's right to left), one below the other.

    `pitch_deg` lets the plate sink along the table, `yaw_deg` turns it in its own plane, `roll_deg` tips it sideways;
    `aside_mm` shifts it, `ends_at_mm` ends it inside the scan, `columns` crops the field of view; `steps` are the distances
    between the rods as multiples of `step_mm`, `arc_mm` is how far the plate is bent, `bubbles` are voids of 3 mm in its
    third rod, and `streak_hu` is the height of streaks that are the same in every slice.
    """
    shape = (round(length_mm / slice_mm), round(240 / pixel_mm), round(400 / pixel_mm))
    y, x = np.meshgrid(
        np.arange(shape[1]) * pixel_mm - 30.0,
        (np.arange(shape[2]) - (shape[2] - 1) / 2) * pixel_mm,
        indexing="ij",
    )
    fat = np.clip((1 - np.hypot(x / 165, y / 105)) * 120 / pixel_mm + 0.5, 0, 1)
    lean = np.clip((1 - np.hypot(x / 140, y / 82)) * 100 / pixel_mm + 0.5, 0, 1)
    hu = np.empty(shape, np.float32)
    for k in range(shape[0]):
        z = (k - (shape[0] - 1) / 2) * slice_mm
        plane = -1000.0 + 900.0 * fat + 150.0 * lean
        for number, rods in enumerate(plates if z < ends_at_mm else ()):
            down = 120.0 + cushion_mm + 45.0 * number + z * np.tan(np.radians(pitch_deg))
            right = aside_mm + z * np.tan(np.radians(yaw_deg))
            cosine, sine = np.cos(np.radians(roll_deg)), np.sin(np.radians(roll_deg))
            u, v = (x - right) * cosine + (y - down) * sine, (y - down) * cosine - (x - right) * sine
            at = np.concatenate([[0.0], np.cumsum(steps or [1.0] * (len(rods) - 1))]) * step_mm
            at -= at[-1] / 2
            half = at[-1] + radius_mm + 8.0
            v = v - arc_mm * (u / half) ** 2
            inside = np.clip((half - np.abs(u)) / pixel_mm + 0.5, 0, 1)
            inside *= np.clip((radius_mm + 5 - np.abs(v)) / pixel_mm + 0.5, 0, 1)
            plane += inside * (plastic_hu - plane)
            for i, value in enumerate(rods):
                distance = np.hypot(u - at[i], v + arc_mm * ((u / half) ** 2 - (at[i] / half) ** 2))
                plane += np.clip((radius_mm - distance) / pixel_mm + 0.5, 0, 1) * (value - plane)
                for number in range(bubbles if k % 8 == 0 and i == 2 else 0):
                    void = np.hypot(u - at[i] - 2.0 * number, v - 1.0)
                    plane += np.clip((1.5 - void) / pixel_mm + 0.5, 0, 1) * (-1000.0 - plane)
        streak = np.sin(x / 7.0 + y / 11.0) * np.cos(x / 23.0 - y / 5.0)
        hu[k] = plane + streak_hu * streak * (plane > -900.0)
    noise = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    if not fine_noise:
        noise = ndimage.gaussian_filter(noise, (0, 0.6, 0.6))
        noise /= noise.std()
    hu += np.float32(noise_hu) * noise
    hu = np.ascontiguousarray(hu[:, :, columns])
    to_lps = np.diag([slice_mm, pixel_mm, pixel_mm, 1.0])[[2, 1, 0, 3]]
    grid = Grid(hu.shape, to_lps)
    return Volume(hu, grid, Acquisition(kvp=120.0)), Segmentation(np.zeros(hu.shape, np.uint8), grid)


def pasted(volume, rods, *, row, column, radius_mm=9.0, step_mm=30.0, plastic_hu=-110.0, noise_hu=10.0):
    """A real scan with a plate in the air at a pixel, with blurred edges and noise."""
    pixel = volume.spacing_mm[1]
    y, x = np.mgrid[0 : volume.shape[1], 0 : volume.shape[2]].astype(float)
    u, v = (x - column) * pixel, (y - row) * pixel
    at = (np.arange(len(rods)) - (len(rods) - 1) / 2) * step_mm
    inside = (np.abs(u) < at[-1] + radius_mm + 8) & (np.abs(v) < radius_mm + 5)
    plane = np.where(inside, plastic_hu, -1000.0)
    for where, value in zip(at, rods, strict=True):
        plane = np.where(np.hypot(u - where, v) < radius_mm, value, plane)
    plane = ndimage.gaussian_filter(plane, 0.8 / pixel)
    near = ndimage.binary_dilation(inside, iterations=4)
    noise = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal(volume.shape), (0, 0.7, 0.7))
    hu = np.where(near, plane + noise_hu * noise / noise.std(), volume.hu)
    return replace(volume, hu=hu.astype(np.int16))
