"""Configuration files: both layouts, typed values, refusals."""

from pathlib import Path

import pytest

from lrq_deploy.cli.flags.config_file import ALLOWED_KEYS, read_config
from lrq_deploy.cli.flags.quantize_flags import QuantizeFlags
from lrq_deploy.errors import OptionError

pytestmark = pytest.mark.unit

CONTENT = """
bits = 4
edge-bits = "same"
input-shape = [3, 32, 32]
mean = "0.5,0.5,0.5"
std = [1, 0.5, 0.25]
output = 0
images = "shots"
force = true
long-range = false
"""
EXPECTED = QuantizeFlags(
    bits=4,
    edge_bits="same",
    input_shape=(3, 32, 32),
    mean=(0.5, 0.5, 0.5),
    std=(1.0, 0.5, 0.25),
    output="0",
    images=Path("shots"),
    force=True,
    long_range=False,
)


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("header", ["", "[quantize]"])
def test_keys_are_read_from_the_top_level_or_the_table(tmp_path: Path, header: str) -> None:
    assert read_config(write(tmp_path, header + CONTENT)) == EXPECTED


@pytest.mark.parametrize(
    ("text", "received"),
    [
        ("bit = 4", "bit"),
        ("weight_bits = 4", "weight_bits"),
        ("trust-pickle = true", "trust-pickle"),
        ("json = true", "json"),
        ("[quantise]\nbits = 4", "quantise"),
    ],
)
def test_unknown_keys_are_refused_with_the_allowed_ones(
    tmp_path: Path, text: str, received: str
) -> None:
    with pytest.raises(OptionError) as caught:
        read_config(write(tmp_path, text))
    assert caught.value.received == received
    assert ", ".join(ALLOWED_KEYS) in caught.value.rule


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("input_shape = [3, 8, 8]", "did you mean input-shape in place of input_shape?"),
        ("bit = 4", "did you mean bits in place of bit?"),
        ("zzz = 4", "remove or rename them"),
        ("no_bench = true", "write bench, true or false, in place of no_bench"),
        ("json = true", "pass --json on the command line in place of json"),
    ],
)
def test_a_key_that_is_nearly_one_is_named(tmp_path: Path, text: str, remedy: str) -> None:
    with pytest.raises(OptionError) as caught:
        read_config(write(tmp_path, text))
    assert caught.value.remedy == remedy


@pytest.mark.parametrize(
    ("text", "others"),
    [
        ("[quantize]\nbits = 4\n[train]\nlr = 1\n[other]", "other, train"),
        ("seed = 1\n[quantize]\nbits = 4", "seed"),
    ],
)
def test_the_table_of_the_run_stands_alone(tmp_path: Path, text: str, others: str) -> None:
    with pytest.raises(OptionError, match=r"beside its \[quantize\] table") as caught:
        read_config(write(tmp_path, text))
    assert caught.value.received == others


@pytest.mark.parametrize(
    "text",
    ["bits = true", "seed = false", "output = true", "edge-bits = true", "mean = [0, true, 1]"],
)
def test_a_truth_value_is_no_number(tmp_path: Path, text: str) -> None:
    with pytest.raises(OptionError, match="no switch") as caught:
        read_config(write(tmp_path, text))
    assert caught.value.received == text.partition(" = ")[2]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('bits = "four"', "bits"),
        ("edge-bits = 4.5", "edge-bits"),
        ("input-shape = 3", "input-shape"),
        ('input-shape = "3x32"', "input-shape"),
        ('mean = "a"', "mean"),
        ("force = 3", "force"),
        ("seed = [1]", "seed"),
    ],
)
def test_values_of_the_wrong_type_are_refused_by_key(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(OptionError, match=f"^{key}"):
        read_config(write(tmp_path, text))


def test_a_missing_file_and_broken_toml_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="readable"):
        read_config(tmp_path / "absent.toml")
    with pytest.raises(OptionError, match="valid TOML"):
        read_config(write(tmp_path, "bits = = 4"))
