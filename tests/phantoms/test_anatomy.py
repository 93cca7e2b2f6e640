"""The anatomy against what it was asked for, and against plain geometry on its voxels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phantoms import Fracture, Phantom, Truth, make_phantom
from phantoms.anatomy_spine import SpineVertebra, vertebra_solid
from phantoms.materials import Materials
from phantoms.solids import frame
from phantoms.vertebral_body import LEVELS, Placement, body_shape
from phantoms.voxelise import Lattice, render

LUMBAR_AND_LOWER_THORACIC = [level for level in LEVELS if level not in ("T1", "T2", "T3")]


@settings(max_examples=60, deadline=None)
@given(
    level=st.sampled_from(LUMBAR_AND_LOWER_THORACIC),
    sex=st.sampled_from("FM"),
    kind=st.sampled_from(["wedge", "biconcave", "crush"]),
    loss=st.floats(0.05, 0.6),
)
def test_endplates_meet_the_requested_heights_exactly(level, sex, kind, loss):
    normal, broken = body_shape(level, sex), body_shape(level, sex, fracture=Fracture(kind, loss))
    for shape in (normal, broken):
        at = np.array(shape.posterior_points_mm)
        np.testing.assert_allclose(
            shape.endplate(shape.upper, at) - shape.endplate(shape.lower, at), shape.heights, atol=1e-9
        )
    anterior, middle, posterior = np.array(broken.heights) / np.array(normal.heights)
    worst = {"wedge": anterior, "biconcave": middle, "crush": posterior}[kind]
    assert worst == pytest.approx(1 - loss)
    assert min(anterior, middle, posterior) == pytest.approx(1 - loss)


@pytest.mark.parametrize(("loss", "grade"), [(0.15, 0), (0.22, 1), (0.3, 2), (0.4, 2), (0.45, 3)])
def test_genant_grades(loss, grade):
    assert Fracture("wedge", loss).genant_grade == grade


@pytest.mark.parametrize(("kind", "loss"), [("bent", 0.3), ("wedge", 0.0), ("wedge", 0.9)])
def test_impossible_fractures_are_refused(kind, loss):
    with pytest.raises(ValueError, match=r"fracture kind|height loss"):
        Fracture(kind, loss)


@pytest.mark.parametrize("fracture", [None, Fracture("wedge", 0.35), Fracture("biconcave", 0.3)])
def test_voxel_columns_of_a_rendered_body_have_the_true_heights(fracture):
    shape = body_shape("L2", "F", fracture=fracture)
    vertebra = SpineVertebra(shape, Placement(np.zeros(3), np.eye(3)), 120.0)
    solid = vertebra_solid(vertebra, marrow="water", size=1.0, cortex=1.0, texture=0.0)
    box = Lattice.upright([-2, -22, -20], [2, 22, 20], (0.25, 0.5, 0.5))
    _, labels = render([solid], box, Materials.mineral_only(), background=None)
    j = np.round(box.to_index(np.array([[0, y, 0] for y in shape.posterior_points_mm]))[:, 1]).astype(int)
    measured = (labels[:, j, 4] > 0).sum(axis=0) * 0.25
    # A column of voxels stands up to 0.25 mm away from the point, and quantises by as much.
    np.testing.assert_allclose(measured, shape.heights, atol=0.4)


def test_panjabi_dimensions_come_out():
    shape = body_shape("L3", "F")
    assert 2 * shape.half_width == pytest.approx(44.1 * 0.97, abs=0.01)
    assert shape.normal_heights[2] == pytest.approx(23.8 * 1.06, abs=0.01)
    assert shape.normal_heights[0] / shape.normal_heights[2] == pytest.approx(1.02)


@pytest.fixture(scope="module")
def torso_truth():
    """Truth and noise-free image of a coarse torso."""
    phantom = make_phantom("torso", seed=2, variation=0.0, texture=0.0)
    image = phantom.image(slice_mm=4.0, pixel_mm=1.6, dose=0)
    return phantom, image, phantom.truth(image)


def test_every_structure_is_there_and_on_its_side(torso_truth):
    _, image, truth = torso_truth
    assert [v.level for v in truth.vertebrae if v.complete] == ["T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5"]
    assert set(truth.labels.values()) == set(np.unique(image.labels)) - {0}
    for side, sign in (("left", 1), ("right", -1)):
        femur = truth.femur(side)
        where = image.lattice.to_lps(np.argwhere(image.labels == femur.label))
        assert (np.sign(where[:, 0]) == sign).all(), "the patient's left is +x in LPS"
        assert femur.head_centre_lps_mm[0] * sign > 60


def test_labels_lie_where_the_truth_says(torso_truth):
    _, image, truth = torso_truth
    for vertebra in truth.vertebrae:
        if vertebra.complete:
            middle = image.lattice.to_lps(np.argwhere(image.labels == vertebra.label)).mean(axis=0)
            np.testing.assert_allclose(middle, vertebra.centre_lps_mm, atol=1.5)
    heights = [v.centre_lps_mm[2] for v in truth.vertebrae]
    assert np.all(np.diff(heights) < 0), "from cranial to caudal"


def test_the_femora_are_mirror_images(torso_truth):
    _, image, _ = torso_truth
    left, right = image.labels == 31, image.labels == 32
    np.testing.assert_array_equal(left, right[:, :, ::-1])


def test_vertebral_volumes_are_those_of_adults(torso_truth):
    _, image, truth = torso_truth
    volume_ml = {v.level: (image.labels == v.label).sum() * np.prod(image.spacing) / 1000 for v in truth.vertebrae}
    assert 17 < volume_ml["T12"] < 32
    assert 20 < volume_ml["L1"] < 40
    assert 25 < volume_ml["L4"] < 50


def test_core_of_the_noise_free_image_reads_what_physics_says(torso_truth):
    _, image, truth = torso_truth
    vertebra = truth.vertebra("L2")
    k, j, i = np.round(image.lattice.to_index(np.array(vertebra.centre_lps_mm))).astype(int)
    assert image.hu[k, j - 2 : j + 1, i - 2 : i + 3].mean() == pytest.approx(vertebra.trabecular_hu, abs=6)
    marrow_hu = 48.0 - 150.0 * vertebra.marrow_fat  # between muscle and fat
    expected = marrow_hu / truth.hu_per_mg_cm3 + vertebra.trabecular_mineral_mg_cm3
    assert vertebra.trabecular_density_mg_cm3 == pytest.approx(expected, abs=6)


def test_soft_tissue_reads_what_it_should(torso_truth):
    _, image, truth = torso_truth

    def hu_at(*lps):
        k, j, i = np.round(image.lattice.to_index(np.array(lps, float))).astype(int)
        return float(image.hu[k - 1 : k + 2, j - 2 : j + 3, i - 2 : i + 3].mean())

    hip = truth.femur("left").head_centre_lps_mm
    assert hu_at(*hip) > 200
    assert 30 < hu_at(hip[0] + 2, hip[1] + 62, hip[2] + 20) < 75, "gluteus maximus"
    low, high = np.array(image.lattice.to_lps(np.array([0, 0, 0]))), image.lattice.to_lps(np.array(image.hu.shape) - 1)
    assert hu_at(low[0] + 3, low[1] + 3, (low[2] + high[2]) / 2) < -950, "air beside the patient"


def test_femoral_head_sits_in_its_socket_with_a_joint_space(torso_truth):
    phantom, _, truth = torso_truth
    femur = truth.femur("left")
    centre = np.array(femur.head_centre_lps_mm)
    inward = np.array([-0.55, 0.25, 0.8]) / np.linalg.norm([-0.55, 0.25, 0.8])
    # A lattice one voxel wide along the ray.
    matrix = np.eye(4)
    matrix[:3, :3] = frame(inward, (0.0, 1.0, 0.0)).T[:, ::-1] * 0.25
    matrix[:3, 3] = centre
    bones = [s for s in phantom.solids if s.name in ("femur_left", "hemipelvis_left")]
    values, _ = render(bones, Lattice((160, 1, 1), matrix), Materials.at(120), background="cartilage")
    hu = values[:, 0, 0]
    distance = np.arange(len(hu)) * 0.25
    first = int(np.argmax((hu < 120) & (distance > femur.head_radius_mm - 1)))
    beyond = first + int(np.argmax(hu[first:] > 120))
    assert 3.0 <= (beyond - first) * 0.25 <= 5.0
    assert hu[beyond + 4] > 300, "the acetabulum lies beyond"


def test_the_same_seed_gives_the_same_image_and_another_one_does_not():
    low, high = np.array([-40, -20, 60]), np.array([40, 60, 120])
    box = Lattice.upright(low, high, (3.0, 1.5, 1.5))
    first, again, other = (make_phantom("spine", seed=seed).image(lattice=box, slice_mm=3.0).hu for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


def test_size_sex_and_age_change_what_they_should():
    small = make_phantom("torso", size=0.9)
    large = make_phantom("torso", size=1.1)
    assert np.all((large.high_mm - large.low_mm)[[0, 2]] > (small.high_mm - small.low_mm)[[0, 2]])
    old, young = (make_phantom("spine", age_years=age, variation=0.0) for age in (85, 30))
    densities = []
    for phantom in (old, young):
        image = phantom.image(
            lattice=Lattice.upright([-30, -30, 100], [30, 30, 180], (4.0, 2.0, 2.0)), slice_mm=4.0, dose=0
        )
        densities.append(phantom.truth(image).vertebra("L1").trabecular_density_mg_cm3)
    assert densities[0] < 85 < 140 < densities[1]


def test_lordosis_and_kyphosis_have_usual_angles(torso_truth):
    _, _, truth = torso_truth
    lean = {v.level: np.degrees(np.arctan2(-v.superior_lps[1], v.superior_lps[2])) for v in truth.vertebrae}
    assert 30 < lean["L5"] - lean["L1"] < 60
    assert lean["T10"] > lean["L1"], "the thoracic spine turns forwards again"


@pytest.mark.parametrize(
    ("kind", "options", "complaint"),
    [
        ("elephant", {}, "no phantom"),
        ("torso", {"sex": "X"}, "sex"),
        ("torso", {"top_level": "C4"}, "no such vertebra"),
        ("torso", {"fractures": {"L9": ("wedge", 0.3)}}, "no such vertebra"),
        ("torso", {"size": 3.0}, "size"),
        ("torso", {"rods": "unknown"}, "rod plate"),
        ("torso", {"contrast": "late"}, "contrast"),
        ("torso", {"colour": "red"}, "colour"),
        ("water", {"colour": "red"}, "colour"),
        ("hip", {"side": "up"}, "side"),
        ("spine", {"bottom_level": "T2"}, "bottom_level"),
    ],
)
def test_unknown_options_are_refused(kind, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        make_phantom(kind, **options)


def test_cement_metal_and_spurs_are_where_they_were_put():
    """Three disturbances at L2, against the same spine without them."""
    box = Lattice.upright([-40, -30, 100], [40, 75, 155], (2.0, 1.0, 1.0))
    options = {"cement": {"cement": ("L2",)}, "screws": {"screws": ("L2",)}, "spurs": {"osteophytes": ("L2",)}}
    plain = make_phantom("spine").image(lattice=box, slice_mm=2.0, dose=0)
    body = plain.labels == 21
    for name, chosen in options.items():
        image = make_phantom("spine", **chosen).image(lattice=box, slice_mm=2.0, dose=0)
        change = image.hu.astype(int) - plain.hu
        np.testing.assert_array_equal(image.labels, plain.labels)
        if name == "cement":
            assert 0.05 < (change[body] > 600).mean() < 0.4
            assert (change[~body] > 600).sum() == 0
        if name == "screws":
            assert image.hu.max() == 3071
        if name == "spurs":
            assert (change[~body] > 150).sum() * 2.0 > 100, "bone outside the body, in mm3"
            assert np.abs(change[body]).mean() < 30


def test_gas_lies_in_the_disc_and_plaques_in_the_wall_of_the_aorta():
    box = Lattice.upright([-40, -60, 90], [40, 40, 160], (2.0, 1.0, 1.0))
    plain, ill = (
        make_phantom("spine", **options).image(lattice=box, slice_mm=2.0, dose=0)
        for options in ({}, {"disc_gas": ("L2",), "aortic_plaques": True})
    )
    change = ill.hu.astype(int) - plain.hu
    np.testing.assert_array_equal(ill.labels, plain.labels)
    gas, plaque = change < -300, change > 200
    assert gas.sum() * 2.0 > 80
    assert (ill.labels[gas] == 0).all(), "no gas in a body"
    assert plaque.sum() * 2.0 > 30
    where = box.to_lps(np.argwhere(plaque))
    bodies = box.to_lps(np.argwhere(plain.labels == 21))
    assert where[:, 1].max() < bodies[:, 1].mean(), "in front of the spine"
    with pytest.raises(ValueError, match="C7"):
        make_phantom("spine", disc_gas=("C7",))


def lumbar(**options) -> Phantom:
    return make_phantom("torso", seed=3, hips=False, top_level="T12", **options)


def truth_of(phantom: Phantom) -> Truth:
    """Truth on a coarse image of the spine alone, without the trunk about it."""
    box = Lattice.upright([-40, -45, -10], [40, 75, phantom.high_mm[2]], (4.0, 2.5, 2.5))
    return phantom.truth(phantom.image(lattice=box, slice_mm=4.0, dose=0.0))


@pytest.fixture(scope="module")
def usual() -> Truth:
    return truth_of(lumbar())


def test_a_sixth_lumbar_vertebra_stands_between_the_fifth_and_the_sacrum(usual):
    more = truth_of(lumbar(lumbar_vertebrae=6))
    with pytest.raises(KeyError):
        usual.vertebra("L6")
    extra = more.vertebra("L6")
    assert extra.label == 25
    assert usual.vertebra("L5").centre_lps_mm[2] == pytest.approx(extra.centre_lps_mm[2], abs=4.0)
    assert more.vertebra("L5").centre_lps_mm[2] > extra.centre_lps_mm[2] + 25.0
    with pytest.raises(ValueError, match="L6"):
        make_phantom("torso", fractures={"L6": ("wedge", 0.3)})


def test_ribs_end_where_they_were_asked_to():
    for pairs, last, none in ((11, "rib_11_left", "rib_12_left"), (12, "rib_12_right", "rib_13_right")):
        names = {solid.name for solid in lumbar(rib_pairs=pairs).solids}
        assert last in names
        assert none not in names
    assert "rib_13_left" in {solid.name for solid in lumbar(rib_pairs=13).solids}
    with pytest.raises(ValueError, match="ribs"):
        make_phantom("torso", rib_pairs=14)


def test_lesions_and_sclerosis_are_in_the_body_and_in_its_truth(usual):
    changed = truth_of(lumbar(lesions={"L1": 400.0, "L2": -60.0}, endplate_sclerosis=["L3"]))
    difference = {
        level: changed.vertebra(level).trabecular_mineral_mg_cm3 - usual.vertebra(level).trabecular_mineral_mg_cm3
        for level in ("T12", "L1", "L2", "L3")
    }
    assert difference["T12"] == 0.0
    assert difference["L1"] > 10.0
    assert difference["L2"] < -2.0
    assert 0.0 < difference["L3"] < 25.0  # the band lies outside the middle half of the height
    with pytest.raises(ValueError, match="T13"):
        make_phantom("torso", lesions={"T13": 100.0})


def test_right_and_left_differ_as_in_people():
    """Liver and vena cava on the right, spleen and aorta on the left (+x): a mirrored image can be told."""
    phantom = make_phantom("torso", seed=3, contrast="venous", top_level="T11")
    middle = {}
    for name in ("liver", "vena_cava", "spleen", "aorta", "stomach"):
        low, high = (np.array(corner) for corner in next(s for s in phantom.solids if s.name == name).box_mm)
        middle[name] = float(low[0] + high[0]) / 2
    assert middle["liver"] < -15 and middle["vena_cava"] < -5
    assert middle["spleen"] > 60 and middle["aorta"] > 4 and middle["stomach"] > 10
    z = 215.0
    slab = Lattice.upright([-160, -110, z - 2], [160, 110, z + 2], (4.0, 2.0, 2.0))
    hu, _ = render(phantom.solids, slab, phantom.materials(120))
    at = [slab.to_index(np.array([x, y, z])).round().astype(int) for x, y in ((-70.0, -10.0), (90.0, 26.0))]
    liver, spleen = (float(np.median(hu[0, j - 4 : j + 5, i - 4 : i + 5])) for _, j, i in at)
    assert liver == pytest.approx(110, abs=6) and spleen == pytest.approx(125, abs=6), "both enhance, each as it does"


def test_gas_in_the_gut_lies_in_front_of_fluid_with_a_level_floor():
    phantom = make_phantom("torso", seed=3, top_level="T11")
    gas = [s for s in phantom.solids if s.name.endswith("_gas")]
    assert len(gas) > 5
    stomach = next(s for s in gas if s.name == "stomach_gas")
    low, high = stomach.box_mm
    lattice = Lattice.upright(low, high, (2.0, 1.0, 1.0))
    only, _ = render([stomach], lattice, Materials.at(120), background="water")
    gas_voxels = only < -500.0
    back = np.where(gas_voxels.any(axis=1), gas_voxels.shape[1] - 1 - gas_voxels[:, ::-1].argmax(axis=1), -1)
    columns = back[back >= 0]
    assert (columns == columns.max()).mean() > 0.3, (
        "a third of the bubble ends at one height; of a ball, next to nothing"
    )
