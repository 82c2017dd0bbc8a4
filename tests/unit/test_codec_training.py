"""Codec training: stages touch what they say, labels follow phones, a stopped run ends as a whole one."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from llasa.codec.compact import CompactCodec
from llasa.codec.compact_network import CompactModel
from llasa.core import Clip
from llasa.errors import ConfigError, InputError, MissingExtra
from llasa.train.codec.compact import CompactTask, CompactTrainee, Parts
from llasa.train.codec.crops import UNKNOWN, Crops, Piece, Shape, active_rms, gather, pieces_of, whole
from llasa.train.codec.recipe import CompactRecipe, Critics, DataBlock, Stage, read
from llasa.train.codec.run import train

RATE = 16000
SMALL = Critics(
    periods=[2], period_channels=2, period_most=4, fft_sizes=[128], channels=2, most=4, learning_rate=1e-3
)
STAGES = {
    "tokenizer": Stage.model_validate(
        {"name": "tokenizer", "steps": 4, "train": ["encoder", "decoder"],
         "losses": {"mel": 1.0, "phone": 0.1}}
    ),
    "vocoder": Stage.model_validate(
        {"name": "vocoder", "steps": 4, "train": ["vocoder"], "hears": "mel", "losses": {"spectral": 1.0}}
    ),
    "adversarial": Stage.model_validate(
        {"name": "adversarial", "steps": 4, "train": ["decoder", "vocoder"],
         "losses": {"mel": 1.0, "patch": 0.1, "multi_mel": 1.0, "adversarial": 0.1, "features": 0.1}}
    ),
}  # fmt: skip
RECIPE = """
kind = "compact"
out = "unset"
[[data]]
path = "unset"
held_out = 0.5
[model]
n_mels = 40
levels = [4, 4, 4]
encoder_widths = [16, 16]
encoder_depths = [1, 1]
decoder_widths = [16, 16, 16]
decoder_depths = [1, 1, 1]
vocoder_width = 16
vocoder_depth = 1
[[stages]]
name = "tokenizer"
train = ["encoder", "decoder"]
steps = 6
batch = 2
crop_s = 0.32
validate_every = 3
losses = { mel = 1.0 }
[[stages]]
name = "sound"
train = ["decoder", "vocoder"]
steps = 4
batch = 2
crop_s = 0.32
validate_every = 2
losses = { spectral = 1.0, adversarial = 0.1 }
[critics]
periods = [2]
period_channels = 2
period_most = 4
fft_sizes = [128]
channels = 2
most = 4
[report]
recognizer = ""
clips = 1
final_clips = 2
every = 2
"""


def tone(path: Path, seconds: float, hz: float, rate: int = RATE) -> Path:
    """A tone with three harmonics and noise: something that a codec can learn."""
    time = np.arange(int(seconds * rate)) / rate
    rng = np.random.default_rng(int(hz))
    sound = sum(np.sin(2 * np.pi * hz * n * time) / n for n in (1, 2, 3)) * 0.1
    soundfile.write(path, sound + rng.standard_normal(len(time)) * 0.01, rate)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for n in range(8):
        tone(recordings / f"clip{n}.wav", 0.8 + 0.1 * n, 110 + 20 * n)
    return recordings


def pieces(folder: Path, phones: bool = False) -> list[Piece]:
    made = []
    for path in sorted(folder.glob("*.wav")):
        clip = Clip(path.stem, str(path), "", phones=(("a", 0.4), ("b", 9.0)) if phones else ())
        made.append(Piece(clip, soundfile.info(path).duration))
    return made


def crops(folder: Path, phones: bool = True) -> Crops:
    return Crops(pieces(folder, phones), Shape(2, 6400, RATE), ("a", "b"), "seed")


def test_each_stage_changes_its_parts_only(folder):
    for name, stage in STAGES.items():
        model = CompactCodec.random(0).model
        before = {
            part: {k: v.clone() for k, v in module.state_dict().items()}
            for part, module in model.named_children()
        }
        drawn = crops(folder)
        task = CompactTask(stage, Parts.of(model, 2), drawn, drawn, SMALL, torch.device("cpu"))
        measures = task.step(0)
        changed = {
            part
            for part, module in model.named_children()
            if any(not torch.equal(v, before[part][k]) for k, v in module.state_dict().items())
        }
        assert changed == set(stage.train), name
        assert all(np.isfinite(value) for value in (measures | task.validate()).values())


def test_critics_learn_in_a_step_and_not_in_a_validation(folder):
    drawn, model = crops(folder), CompactCodec.random(0).model
    task = CompactTask(STAGES["adversarial"], Parts.of(model, 2), drawn, drawn, SMALL, torch.device("cpu"))
    assert task.critics
    start = [p.clone() for p in task.critics.parameters]
    task.validate()
    assert all(torch.equal(a, b) for a, b in zip(start, task.critics.parameters, strict=True))
    task.step(0)
    assert any(not torch.equal(a, b) for a, b in zip(start, task.critics.parameters, strict=True))


def test_speech_without_phones_trains_without_nan(folder):
    model, drawn = CompactCodec.random(0).model, crops(folder, phones=False)
    task = CompactTask(STAGES["tokenizer"], Parts.of(model, 0), drawn, drawn, SMALL, torch.device("cpu"))
    assert task.step(0)["phone"] == 0.0
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_labels_are_the_phones_at_that_time(folder):
    first = pieces(folder, phones=True)[:1]
    drawn = Crops(first, Shape(1, int(0.8 * RATE), RATE), ("a", "b"), "seed")  # the whole clip
    labels = drawn.one(0)[1][0]
    assert set(labels[:19].tolist()) == {0} and set(labels[21:].tolist()) == {1}
    known = replace(first[0], clip=replace(first[0].clip, phones=(("a", 0.4),)))
    late = Crops([known], Shape(1, int(0.8 * RATE), RATE), ("a",), "seed").one(0)[1][0]
    assert set(late[21:].tolist()) == {UNKNOWN}


def test_crops_depend_on_seed_and_index_alone(folder):
    ahead, alone = crops(folder), crops(folder)
    ahead.batch(2)
    assert torch.equal(ahead.batch(3)[0], alone.one(3)[0])
    assert not torch.equal(alone.one(3)[0], alone.one(4)[0])


def test_crops_have_one_loudness_and_the_wanted_rate(folder):
    tone(folder / "other.wav", 1.0, 300, rate=44100)
    drawn = Crops(pieces(folder), Shape(32, 6400, RATE), (), "seed", level=0.1)
    levels = drawn.one(0)[0].square().mean(1).sqrt()
    assert levels.min() > 0.06 and levels.max() < 0.16


def test_a_bad_clip_is_named_once_and_left_out(folder):
    (folder / "clip3.wav").write_bytes(b"RIFF nothing of sound")
    good = [piece for piece in pieces_of(str(folder), None)[0]]
    assert "clip3" not in {Path(piece.clip.audio).stem for piece in good}
    broken = Piece(Clip("broken", str(folder / "clip3.wav"), ""), 1.0, weight=50.0)
    drawn = Crops([*good, broken], Shape(8, 6400, RATE), (), "seed")
    assert torch.isfinite(drawn.one(0)[0]).all() and [reject.id for reject in drawn.bad] == ["broken"]
    with pytest.raises(InputError, match="in a row"):
        Crops([broken], Shape(1, 6400, RATE), (), "seed").one(0)


def test_two_sources_may_use_one_id(folder):
    good, other = pieces(folder)[:1], Clip("clip0", str(folder / "broken.wav"), "")
    drawn = Crops([*good, Piece(other, 1.0)], Shape(16, 6400, RATE), (), "seed")
    assert drawn.one(0)[0].abs().sum(1).min() > 0 and [x.id for x in drawn.bad] == ["clip0"]


def test_a_cut_of_nothing_is_a_reject(folder):
    rows = [{"audio_filepath": "clip0.wav", "offset": start, "text": "a"} for start in (0.2, 5.0)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found, rejects = pieces_of(str(folder), "nemo")
    assert [round(piece.length_s, 1) for piece in found] == [0.6] and rejects[0].reason == "empty"


def test_what_cannot_work_is_told_before_the_first_step(tmp_path, folder, monkeypatch):
    told = [f'data.0.path="{folder}"', f'out="{tmp_path / "out"}"']
    with monkeypatch.context() as patch, pytest.raises(MissingExtra, match="'pesq'"):
        patch.setitem(sys.modules, "pesq", None)
        train(read(recipe(tmp_path), told))
    with pytest.raises(ConfigError, match="no-such"):
        train(read(recipe(tmp_path), [*told, "report.recognizer=no-such"]), changed_ok=True)
    for piece in gather([DataBlock(path=str(folder), held_out=0.5)]).held:
        soundfile.write(piece.clip.audio, np.zeros(RATE), RATE)
    with pytest.raises(InputError, match="of no use"):
        train(read(recipe(tmp_path), told), changed_ok=True)
    assert not list((tmp_path / "out").rglob("step-*"))


def test_held_out_speakers_are_never_trained_on(folder):
    found = gather([DataBlock(path=str(folder), held_out=0.3, by="speaker")])
    names = [{piece.clip.id for piece in part} for part in (found.train, found.held)]
    assert all(names) and not names[0] & names[1]
    with pytest.raises(InputError, match="0 held out"):
        gather([DataBlock(path=str(folder), held_out=0.0)])


def test_whole_clips_are_spread_over_the_source(folder):
    clips = list(whole(pieces(folder), 3, level=0.1))
    assert [clip.id for clip, _ in clips] == ["clip0", "clip4", "clip7"]
    assert all(abs(active_rms(sound) - 0.1) < 0.01 for _, sound in clips)


def recipe(tmp_path: Path, text: str = RECIPE) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_run_ends_in_a_codec_that_loads_and_goes_on_where_it_stopped(tmp_path, folder):
    path = recipe(tmp_path)
    told = [f'data.0.path="{folder}"']
    run = train(read(path, [*told, f'out="{tmp_path / "whole"}"']))
    assert run and run.measures["clips"] == 2 and 0 < run.measures["used"] <= 1
    # The same stages, with a stop after the first: the weights are those of the run that never stopped.
    cut = read(path, [*told, f'out="{tmp_path / "cut"}"'])
    train(cut.model_copy(update={"stages": cut.stages[:1]}))
    train(cut, changed_ok=True)
    for name in ("encoder", "decoder", "vocoder"):
        files = [tmp_path / run / "codec" / f"{name}.safetensors" for run in ("whole", "cut")]
        assert files[0].read_bytes() == files[1].read_bytes()
    codec = CompactCodec.load(tmp_path / "whole" / "codec")
    assert codec.name == run.codec and codec.codebook_size == 64
    report = json.loads((tmp_path / "whole" / "report.json").read_text(encoding="utf-8"))
    assert report["codec"] == codec.name and len(report["passages"]) == 2
    assert (tmp_path / "whole" / "report.png").stat().st_size > 10_000


def test_a_frozen_encoder_keeps_the_codecs_name(tmp_path, folder):
    CompactCodec.random(0).save(tmp_path / "first")
    first = CompactCodec.load(tmp_path / "first")
    text = RECIPE[: RECIPE.index("[model]")] + RECIPE[RECIPE.index('[[stages]]\nname = "sound"') :]
    told = [f'data.0.path="{folder}"', f'out="{tmp_path / "out"}"', f'init="{tmp_path / "first"}"']
    run = train(read(recipe(tmp_path, text), told))
    assert run and run.codec == first.name
    assert any(
        not torch.equal(a, b)
        for a, b in zip(
            first.model.vocoder.parameters(),
            CompactCodec.load(tmp_path / "out" / "codec").model.vocoder.parameters(),
            strict=True,
        )
    )


def streaming_recipe(tmp_path: Path, folder: Path) -> tuple[Path, list[str]]:
    CompactCodec.random(0).save(tmp_path / "first")
    text = RECIPE[: RECIPE.index("[model]")] + RECIPE[RECIPE.index("[[stages]]") :]
    told = [f'data.0.path="{folder}"', f'init="{tmp_path / "first"}"', "ahead=[1, 2]"]
    told += ['stages.tokenizer.train=["decoder"]', "stages.tokenizer.losses={teacher=1.0}"]
    told += [
        f"stages.{stage}.{at_once}"
        for stage in ("tokenizer", "sound")
        for at_once in ("warmup=0", "hold=1.0")
    ]
    return recipe(tmp_path, text), told


def test_a_streaming_decoder_is_trained_beside_a_codec_that_stays(tmp_path, folder):
    path, told = streaming_recipe(tmp_path, folder)
    run = train(read(path, [*told, f'out="{tmp_path / "out"}"']))
    made, first = tmp_path / "out" / "codec", tmp_path / "first"
    for file in first.iterdir():
        assert (made / file.name).read_bytes() == file.read_bytes()
    codec = CompactCodec.load(made)
    assert run and codec.causal and run.codec == codec.name == CompactCodec.load(first).name
    assert codec.causal.model.config.ahead == (1, 2)
    assert not (made / "streaming" / "encoder.safetensors").exists()
    begun = CompactCodec.load(first).model.causal((1, 2))
    for part in ("decoder", "vocoder"):
        pairs = zip(
            begun.get_submodule(part).parameters(),
            codec.causal.model.get_submodule(part).parameters(),
            strict=True,
        )
        assert any((a - b).abs().max() > 1e-3 for a, b in pairs), part  # more than storing it rounds
    further = CompactTrainee(read(path, [*told, f'init="{made}"']), [], torch.device("cpu")).parts
    assert further.teacher is not None
    for part, where in ((further.model.decoder, codec.causal.model), (further.teacher, codec.model)):
        own = part.state_dict()
        assert all(torch.equal(own[name], value) for name, value in where.decoder.state_dict().items())
    rows = (tmp_path / "out" / "stages" / "tokenizer" / "metrics.jsonl").read_text(encoding="utf-8")
    taught = [json.loads(row)["held_teacher"] for row in rows.splitlines()]
    assert taught[-1] < taught[0]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (['stages.sound.train=["encoder", "decoder"]'], "for codes there are"),
        (["ahead=[-1, 2]"], "ahead"),
        (["ahead=[1]"], "ahead"),
        (["ahead=[11, 2]"], "is not from 0 to 10"),
        (["ahead=[6, 2]"], "first layers"),
        (["init="], "without init"),
    ],
)
def test_a_streaming_decoder_that_cannot_be_is_told_before_it_is_trained(tmp_path, folder, changes, found):
    path, told = streaming_recipe(tmp_path, folder)
    with pytest.raises(ConfigError, match=found):
        train(read(path, [*told, f'out="{tmp_path / "out"}"', *changes]))
    assert not list((tmp_path / "out").rglob("step-*"))


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("stages.tokenizer.stepz=3", "Did you mean 'steps'"),
        ("stages.nothing.steps=3", "found no item 'nothing'"),
        ("kind=mp3", "Use one of: compact, xcodec2"),
        ("stages.sound.hears=mel", "vocoder alone"),
        ("stages.tokenizer.losses={}", "no loss"),
        ("stages.tokenizer.losses.features=1.0", "without adversarial"),
        ("stages.sound.name=tokenizer", "one name"),
        ("init=here", "both init and"),
        ("vocoder=3", "vocoder"),
        ("stages.tokenizer.losses.semantic=1.0", "only X-Codec2"),
        ("stages.tokenizer.losses.teacher=1.0", "without ahead"),
        ("ahead=[1, 2]", "without init"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_told_why(tmp_path, setting, found):
    with pytest.raises(ConfigError, match=found):
        read(recipe(tmp_path), [setting])


def test_sizes_that_fit_no_network_are_refused(tmp_path, folder):
    told = [f'data.0.path="{folder}"', f'out="{tmp_path / "out"}"']
    with pytest.raises(ConfigError, match="Did you mean 'strides'"):
        train(read(recipe(tmp_path), [*told, "model.stride=[2]"]))
    with pytest.raises(ConfigError, match="fit no network"):
        train(read(recipe(tmp_path), [*told, "model.encoder_depths=[1]"]))


def fresh(path: Path, settings: list[str]) -> CompactModel:
    found = read(path, settings)
    assert isinstance(found, CompactRecipe)
    return CompactTrainee(found, [], torch.device("cpu")).parts.model


def test_a_trained_vocoder_serves_codes_of_another_rate(tmp_path):
    CompactCodec.random(0).save(tmp_path / "first")
    first = CompactCodec.load(tmp_path / "first")
    told = dict.fromkeys(("data.0.path", "out"), "unused") | {"vocoder": str(tmp_path / "first")}
    settings = [f'{key}="{value}"' for key, value in told.items()]
    own = {key: getattr(first.model.config, key) for key in ("n_mels", "vocoder_width", "vocoder_depth")}
    settings += [f"model.{key}={value}" for key, value in own.items()]
    slower = ["model.strides=[4, 2]"]
    model = fresh(recipe(tmp_path), [*settings, *slower])
    assert model.config.strides == (4, 2) != first.model.config.strides
    weights = first.model.vocoder.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in model.vocoder.state_dict().items())
    with pytest.raises(ConfigError, match="vocoder_width is 24 here"):
        fresh(recipe(tmp_path), [*settings, "model.vocoder_width=24"])


def test_the_rate_rises_holds_and_falls():
    stage = STAGES["tokenizer"].model_copy(
        update={"steps": 100, "warmup": 10, "hold": 0.5, "learning_rate": 1.0, "last_rate": 0.2}
    )
    rates = [stage.rate_at(n) for n in range(101)]
    assert rates[0] < 0.02 and rates[9] == rates[50] == 1.0 and rates[100] == pytest.approx(0.2)
    assert rates[75] == pytest.approx(0.6)
