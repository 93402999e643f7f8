"""Flags become options: defaults, overrides, refusals, and the way back to a command line."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lrq_deploy.cli.commands import quantize as quantize_module
from lrq_deploy.cli.commands.demo import demo_flags
from lrq_deploy.cli.flags.quantize_flags import (
    QuantizeFlags,
    command_line,
    control_from,
    options_from,
    parse_floats,
    parse_integers,
    parse_width,
)
from lrq_deploy.cli.main import app
from lrq_deploy.errors import OptionError
from lrq_deploy.options import MethodSwitches, QuantizeOptions
from lrq_deploy.resume.control import RunControl
from lrq_deploy.scheme import Scheme

pytestmark = pytest.mark.unit

MODEL = Path("nets/resnet.pt")


class Recorder:
    """Takes the place of the run, so that parsing is seen alone."""

    options: QuantizeOptions | None = None
    control: RunControl | None = None
    json = False
    quiet = False

    def __call__(self, model: Path, flags: QuantizeFlags, *, json: bool, quiet: bool) -> None:
        self.options, self.control = options_from(model, flags), control_from(flags)
        self.json, self.quiet = json, quiet


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(quantize_module, "run_and_report", recorder)
    return recorder


def parse(recorder: Recorder, arguments: list[str]) -> QuantizeOptions:
    result = CliRunner().invoke(app, ["quantize", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert recorder.options is not None
    return recorder.options


def test_bits_alone_is_a_complete_command(recorder: Recorder) -> None:
    options = parse(recorder, [str(MODEL), "--bits", "4"])
    assert options == QuantizeOptions(
        model=MODEL, out=Path("runs/resnet-w4a4"), scheme=Scheme(4, 4, 8, 8, "symmetric")
    )
    assert not recorder.json
    assert not recorder.quiet


def test_every_flag_reaches_the_options(recorder: Recorder) -> None:
    line = (
        f"{MODEL} --bits 4 --weight-bits 3 --act-bits 5 --edge-bits same --residual-bits 8 "
        "--act-symmetry asymmetric --arch timm:x --input-shape 1,9,12 --mean=-0.5 --std 0.25 "
        "--output aux --images shots --recipe best --device cpu --seed 7 --out here --force "
        "--precision float32 --compile --trust-pickle --no-long-range --margin b --no-decoupled "
        "--target onnxruntime --no-bench --cache kept --resume "
        "--checkpoint-every 2.5 --max-memory 900 --json --quiet"
    )
    assert parse(recorder, line.split()) == QuantizeOptions(
        model=MODEL,
        out=Path("here"),
        scheme=Scheme(3, 5, None, 8, "asymmetric"),
        arch="timm:x",
        input_shape=(1, 9, 12),
        mean=(-0.5,),
        std=(0.25,),
        output="aux",
        images=Path("shots"),
        recipe="best",
        device="cpu",
        precision="float32",
        compile=True,
        seed=7,
        trust_pickle=True,
        force=True,
        method=MethodSwitches(long_range=False, margin="b", decoupled=False),
        target="onnxruntime",
        bench=False,
    )
    assert recorder.control == RunControl(Path("kept"), True, 2.5, 900)
    assert recorder.json
    assert recorder.quiet


def test_labels_on_their_own_leave_out_what_is_about_one_class(recorder: Recorder) -> None:
    options = parse(recorder, [str(MODEL), "--bits", "4", "--task", "multilabel"])
    assert options.task == "multilabel"
    assert options.method == MethodSwitches(margin="off", decoupled=False)


@pytest.mark.parametrize(
    ("flags", "task"),
    [
        (QuantizeFlags(bits=4), "multilabel"),
        (QuantizeFlags(bits=4, task="multiclass"), "multiclass"),
        (QuantizeFlags(bits=4, arch="timm:resnet18"), "multiclass"),
    ],
    ids=["said beside the weights", "said otherwise", "another network"],
)
def test_the_file_beside_the_weights_says_what_logits_mean(
    tmp_path: Path, flags: QuantizeFlags, task: str
) -> None:
    about = {"architectures": ["ResNetForImageClassification"], "model_type": "resnet"}
    about["problem_type"] = "multi_label_classification"
    (tmp_path / "config.json").write_text(json.dumps(about), encoding="utf-8")
    options = options_from(tmp_path / "model.safetensors", flags)
    assert options.task == task
    assert (options.method == MethodSwitches(margin="off", decoupled=False)) == (
        task == "multilabel"
    )


def test_flags_override_the_configuration_file(recorder: Recorder, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("[quantize]\nbits = 8\nseed = 3\nlong-range = false\n", encoding="utf-8")
    options = parse(recorder, [str(MODEL), "--config", str(config), "--bits", "2", "--long-range"])
    assert (options.scheme.weight_bits, options.seed) == (2, 3)
    assert options.method.long_range


def test_weight_and_act_bits_together_replace_bits() -> None:
    options = options_from(MODEL, QuantizeFlags(weight_bits=4, act_bits=8))
    assert (options.scheme.weight_bits, options.scheme.act_bits) == (4, 8)
    assert options.out == Path("runs/resnet-w4a8")


@pytest.mark.parametrize(
    ("flags", "received"),
    [
        (QuantizeFlags(), "no bit width"),
        (QuantizeFlags(weight_bits=4), "--weight-bits"),
        (QuantizeFlags(bits=1), "1"),
        (QuantizeFlags(bits=9), "9"),
        (QuantizeFlags(bits=4, edge_bits=16), "16"),
        (QuantizeFlags(bits=4, residual_bits=0), "0"),
        (QuantizeFlags(bits=4, act_symmetry="odd"), "'odd'"),
        (QuantizeFlags(bits=4, recipe="slow"), "'slow'"),
        (QuantizeFlags(bits=4, task="many"), "'many'"),
        (
            QuantizeFlags(bits=4, task="multilabel", margin="a2"),
            "task multilabel with margin a2",
        ),
        (
            QuantizeFlags(bits=4, task="multilabel", decoupled=True),
            "task multilabel with margin off and decoupled distillation",
        ),
        (QuantizeFlags(bits=4, device="tpu"), "'tpu'"),
        (QuantizeFlags(bits=4, precision="half"), "'half'"),
        (QuantizeFlags(bits=4, margin="c"), "'c'"),
        *(
            (QuantizeFlags(bits=4, method=method, **stated), f"the method {method}, which {lack}")
            for method, lack, stated in (
                ("zeroq", "trains no generator", {"long_range": True}),
                ("leaves", "trains no generator", {"long_range": False}),
                ("leaves", "trains no generator", {"margin": "a1"}),
                ("zeroq", "does not train the student as a whole", {"decoupled": True}),
                ("calibrate", "does not train the student as a whole", {"decoupled": False}),
                ("lrq-blocks", "does not train the student as a whole", {"margin": "b"}),
            )
        ),
        (QuantizeFlags(bits=4, seed=-1), "-1"),
        (QuantizeFlags(bits=4, seed=2**63), "9223372036854775808"),
        (QuantizeFlags(bits=4, input_shape=(3, 32)), "3,32"),
        (QuantizeFlags(bits=4, input_shape=(0, 32, 32)), "0,32,32"),
        (QuantizeFlags(bits=4, input_shape=(3, 4, 4)), "3,4,4"),
        (QuantizeFlags(bits=4, mean=(0.5,)), "only mean"),
        (QuantizeFlags(bits=4, mean=(0.5,), std=(0.0,)), "0.0"),
        (QuantizeFlags(bits=4, mean=(0.5,), std=(0.5, 0.5)), "1 and 2 values"),
    ],
)
def test_values_out_of_range_are_refused_with_what_was_received(
    flags: QuantizeFlags, received: str
) -> None:
    with pytest.raises(OptionError) as caught:
        options_from(MODEL, flags)
    assert caught.value.received == received
    assert caught.value.remedy


@pytest.mark.parametrize(
    "flags",
    [
        QuantizeFlags(bits=4, method="zeroq", margin="off", long_range=False, decoupled=False),
        QuantizeFlags(bits=4, method="calibrate", margin="off", long_range=False),
        QuantizeFlags(bits=4, method="calibrate", task="multilabel", decoupled=False),
        QuantizeFlags(bits=4, method="leaves", margin="b", decoupled=False),
        QuantizeFlags(bits=4, method="gdfq", margin="a1", long_range=True, decoupled=True),
    ],
)
def test_parts_that_a_method_has_or_lacks_by_itself_may_be_stated(flags: QuantizeFlags) -> None:
    switches = options_from(MODEL, flags).method
    for name in ("margin", "long_range", "decoupled"):
        assert getattr(flags, name) in {None, getattr(switches, name)}


@pytest.mark.parametrize("text", ["", "x", "4.0", "SAME"])
def test_a_width_is_a_number_or_same(text: str) -> None:
    with pytest.raises(OptionError, match="edge-bits"):
        parse_width("edge-bits", text)


@pytest.mark.parametrize("text", ["", "3;32;32", "3,32,", "3,32.5,32"])
def test_a_shape_is_whole_numbers(text: str) -> None:
    with pytest.raises(OptionError, match="input-shape"):
        parse_integers("input-shape", text)


@pytest.mark.parametrize("text", ["", "a,b", "0.5,", "nan", "inf,0.5"])
def test_a_mean_is_finite_numbers(text: str) -> None:
    with pytest.raises(OptionError, match="mean"):
        parse_floats("mean", text)


WIDTHS = st.one_of(st.none(), st.just("same"), st.integers(2, 8))
FLOATS = st.tuples(*[st.floats(-2, 2)] * 3)
NAMES = st.from_regex(r"[a-z][a-z ']{0,8}", fullmatch=True).map(Path)


@given(
    st.builds(
        QuantizeFlags,
        bits=st.integers(2, 8),
        edge_bits=WIDTHS,
        residual_bits=WIDTHS,
        mean=st.one_of(st.none(), FLOATS),
        images=st.one_of(st.none(), NAMES),
        out=NAMES,
        seed=st.one_of(st.none(), st.integers(0, 9)),
        force=st.sampled_from([None, True, False]),
        long_range=st.sampled_from([None, True, False]),
        margin=st.sampled_from([None, "a1", "off"]),
    ),
)
def test_a_printed_command_line_parses_to_the_same_options(flags: QuantizeFlags) -> None:
    flags = replace(flags, std=None if flags.mean is None else (1.0, 0.5, 0.25))
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize_module, "run_and_report", recorder)
        words = shlex.split(command_line(MODEL, flags))
        assert words[:2] == ["lrq-deploy", "quantize"]
        assert parse(recorder, words[2:]) == options_from(MODEL, flags)


def test_a_file_with_a_leading_minus_sign_is_no_flag(recorder: Recorder) -> None:
    words = shlex.split(command_line(Path("-net.pt"), QuantizeFlags(bits=4)))
    assert parse(recorder, words[2:]).model == Path("-net.pt")


def test_the_demo_runs_quantize_with_four_bits(recorder: Recorder) -> None:
    flags = demo_flags(Path("d"), seed=5, recipe="fast", force=True)
    words = shlex.split(command_line(Path("d/model.pt"), flags))[2:]
    assert words[:3] == ["d/model.pt", "--bits", "4"]
    options = parse(recorder, words)
    assert options == options_from(Path("d/model.pt"), flags)
    assert (options.images, options.out) == (Path("d/digits"), Path("d/bundle"))
    assert (options.mean, options.std) == ((0.0,), (1.0,))
    assert (options.seed, options.recipe, options.force) == (5, "fast", True)


def test_help_names_every_flag() -> None:
    shown = CliRunner().invoke(app, ["quantize", "--help"]).output
    for name in QuantizeFlags.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in shown
