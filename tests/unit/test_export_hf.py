"""Bundles as folders for the Hub: they load back and speak alike, and hold only what is the bundle's."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import llasa
from llasa.bundle import Bundle, load_bundle, seal
from llasa.codec.compact import CompactCodec
from llasa.errors import BundleError, ConfigError
from llasa.export.card import MARKER, training_facts
from llasa.export.hf import Changes, _settings, _swap, export_hf
from llasa.manifest import read_manifest
from tests.conftest import with_streaming

TEXT = "the cat sat"


def codes(folder: Path) -> list[int]:
    [candidate] = llasa.load(folder).candidates(TEXT, seed=3, max_tokens=20)
    return candidate.codes


def trained(bundle: Path, folder: Path) -> Path:
    """A trainer's output: another model of the same kind, as TRL leaves it."""
    model = AutoModelForCausalLM.from_pretrained(bundle / "lm")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(-3.0)
        model.model.embed_tokens.weight.mul_(2.0)
    model.save_pretrained(folder)
    (folder / "training_args.bin").write_bytes(b"a pickle")
    (folder / "optimizer.pt").write_bytes(b"a pickle")
    state = {
        "global_step": 120,
        "num_train_epochs": 2,
        "best_model_checkpoint": "private/run",
        "hub_token": "x",
    }
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_loads_back_and_says_the_same(tiny_bundle: Path, tmp_path: Path):
    made = export_hf(
        load_bundle(tiny_bundle), tmp_path / "new" / "out", Changes(repo="me/tiny", license="mit")
    )
    assert codes(made.folder) == codes(tiny_bundle)
    assert files(made.folder) == {*load_bundle(tiny_bundle).manifest.files, "bundle.toml", "README.md"}
    assert set(made.files) == files(made.folder)
    assert [path.name for path in made.folder.parent.iterdir()] == ["out"]


def test_its_language_model_loads_with_transformers_alone(tiny_bundle: Path, tmp_path: Path):
    folder = export_hf(load_bundle(tiny_bundle), tmp_path / "out").folder / "lm"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids("<|s_0|>") < model.config.vocab_size


def test_the_card_says_what_the_hub_and_people_ask(tiny_bundle: Path, tmp_path: Path):
    changes = Changes(repo="me/tiny", license="mit", base_model="me/older")
    folder = export_hf(load_bundle(tiny_bundle), tmp_path / "out", changes).folder
    card = ModelCard.load(folder / "README.md")
    front = card.data.to_dict()
    assert (front["license"], front["language"], front["base_model"]) == ("mit", "en", "me/older")
    assert (front["pipeline_tag"], front["library_name"]) == ("text-to-speech", "llasa")
    bundle = load_bundle(folder)
    for said in (
        bundle.manifest.codec.name,
        "| ada | 2.0 s | a formula | not a person |",
        "--bundle me/tiny",
        'llasa.load("me/tiny")',
        "<|TEXT_UNDERSTANDING_START|>TEXT<|TEXT_UNDERSTANDING_END|><|SPEECH_GENERATION_START|>CODES",
        "| `temperature` | 0.8 |",
        "llasa doctor --bundle me/tiny",
        "Licence of this model: mit",
        "from me/older",
    ):
        assert said is not None and said in card.text


def test_a_trained_language_model_takes_the_place_of_the_old(tiny_bundle: Path, tmp_path: Path):
    lm = trained(tiny_bundle, tmp_path / "grpo")
    folder = export_hf(load_bundle(tiny_bundle), tmp_path / "out", Changes(name="better", lm=lm)).folder
    assert load_bundle(folder).name == "better"
    assert (folder / "lm/model.safetensors").read_bytes() == (lm / "model.safetensors").read_bytes()
    assert codes(folder) != codes(tiny_bundle)
    assert not any(name.endswith((".bin", ".pt")) for name in files(folder))
    text = (folder / "README.md").read_text()
    assert "| global_step | 120 |" in text and "from that of tiny" in text
    assert "private/run" not in text and "hub_token" not in text


def test_an_adapter_is_merged(tiny_bundle: Path, tmp_path: Path):
    pytest.importorskip("llasa.engines.adapters")
    name, generator = "model.layers.0.self_attn.q_proj", torch.Generator().manual_seed(0)
    down, up = torch.randn(2, 32, generator=generator), torch.randn(32, 2, generator=generator)
    (tmp_path / "lora").mkdir()
    tensors = {f"base_model.model.{name}.lora_A.weight": down, f"base_model.model.{name}.lora_B.weight": up}
    save_file(tensors, tmp_path / "lora" / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "layers_to_transform": [0],
    }
    base = {"base_model_name_or_path": "me/base"}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(settings | base))
    changes = Changes(adapter=tmp_path / "lora")
    folder = export_hf(load_bundle(tiny_bundle), tmp_path / "out", changes).folder
    old, new = (load_file(at / "lm" / "model.safetensors")[f"{name}.weight"] for at in (tiny_bundle, folder))
    torch.testing.assert_close(new, old + 2.0 * up @ down)
    assert codes(folder) != codes(tiny_bundle)
    assert ModelCard.load(folder / "README.md").data.to_dict()["base_model"] == "me/base"


def test_what_the_makers_wrote_is_kept(broken_bundle: Path, tmp_path: Path):
    front = "license: cc-by-4.0\nlanguage: [de, en]\ndatasets: [me/data]\ntags: [fine]"
    (broken_bundle / "README.md").write_text(f"---\n{front}\n---\nRecorded at home.\n")
    once = export_hf(load_bundle(broken_bundle), tmp_path / "once").folder
    twice = export_hf(load_bundle(once), tmp_path / "twice").folder
    card = ModelCard.load(twice / "README.md")
    assert card.text.split(MARKER)[1].strip() == "Recorded at home." and card.text.count(MARKER) == 1
    front = card.data.to_dict()
    assert (front["license"], front["language"], front["datasets"]) == (
        "cc-by-4.0",
        ["de", "en"],
        ["me/data"],
    )
    assert {"fine", "llasa"} <= set(front["tags"])


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ("lm", {"config.json", "model.safetensors", "tokenizer.json"}),
        ("codec", {"config.json", "encoder.safetensors"}),
    ],
)
def test_one_part_alone(tiny_bundle: Path, tmp_path: Path, parts, expected: set[str]):
    made = export_hf(load_bundle(tiny_bundle), tmp_path / "out", parts=parts)
    assert expected < set(made.files) and not any("/" in name or name == "bundle.toml" for name in made.files)
    if parts == "lm":
        AutoModelForCausalLM.from_pretrained(made.folder)


def test_a_streaming_decoder_goes_along_and_makes_way(tiny_bundle: Path, tmp_path: Path):
    bundle = load_bundle(with_streaming(tiny_bundle, tmp_path / "bundle"))
    for parts in ("all", "codec"):
        for again in (False, True):
            made = export_hf(bundle, tmp_path / parts, parts=parts, force=again)
            codec = CompactCodec.load(made.folder / "codec" if parts == "all" else made.folder)
            assert codec.causal and codec.name == bundle.codec.name


def published(tiny_bundle: Path, folder: Path) -> Bundle:
    """A bundle as it is inferred of a checkpoint in the published layout: no seal, its codec elsewhere."""
    shutil.copytree(tiny_bundle / "lm", folder)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "notes.txt").write_text("mine")
    (folder / "LICENSE.txt").write_text("terms")
    bundle = load_bundle(tiny_bundle)
    lm = bundle.manifest.lm.model_copy(update={"path": ".", "text": "written"})
    codec = bundle.manifest.codec.model_copy(update={"source": "owner/codec", "name": None})
    manifest = bundle.manifest.model_copy(
        update={"lm": lm, "codec": codec, "files": {}, "default_voice": None}
    )
    return replace(bundle, folder=folder, manifest=manifest)


def test_a_published_checkpoint_keeps_its_layout(tiny_bundle: Path, tmp_path: Path):
    bundle = published(tiny_bundle, tmp_path / "model")
    made = export_hf(bundle, tmp_path / "out", Changes(repo="me/model"))
    assert "model.safetensors" in made.files and "LICENSE.txt" in made.files
    assert not {"pytorch_model.bin", "notes.txt", "bundle.toml"} & set(made.files)
    text = (made.folder / "README.md").read_text()
    assert "from `owner/codec`" in text and 'llasa.load("me/model", codec="owner/codec")' in text
    assert 'AutoTokenizer.from_pretrained("me/model")' in text
    with pytest.raises(BundleError, match=r"not in the bundle, but in owner/codec"):
        export_hf(bundle, tmp_path / "codec", parts="codec")


@pytest.mark.parametrize(
    "name",
    ["lm/optimizer.bin", "voices/.env", "notes/my-secret.txt", "tool.py", "id_ecdsa", ".npmrc", "a.so",
     "a.sh", "client_secret.json", "passwords.txt"],
)  # fmt: skip
def test_pickles_code_and_secrets_are_refused(tiny_bundle: Path, tmp_path: Path, name: str):
    bundle = load_bundle(tiny_bundle)
    manifest = bundle.manifest.model_copy(update={"files": {**bundle.manifest.files, name: "0" * 64}})
    with pytest.raises(BundleError, match=r"run code or hold secrets\. Take it out"):
        export_hf(replace(bundle, manifest=manifest), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_only_begin_like_secrets_pass(broken_bundle: Path, tmp_path: Path):
    shutil.copy(
        broken_bundle / "voices" / "ada.safetensors", broken_bundle / "voices" / "secretary.safetensors"
    )
    seal(broken_bundle, _settings(read_manifest(broken_bundle), True))
    made = export_hf(load_bundle(broken_bundle), tmp_path / "out")
    assert "voices/secretary.safetensors" in made.files


def test_a_folder_in_use_is_refused(tiny_bundle: Path, tmp_path: Path):
    bundle, output = load_bundle(tiny_bundle), tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(ConfigError, match=r"other things than an earlier export\. Choose a new folder"):
            export_hf(bundle, output, force=force)
    (output / "thesis.txt").unlink()
    export_hf(bundle, output)
    (output / ".git").mkdir()
    inode = (output / "README.md").stat().st_ino
    with pytest.raises(
        ConfigError, match=r"an earlier export is there\. Choose a new folder, or use --force"
    ):
        export_hf(bundle, output)
    export_hf(bundle, output, force=True)
    assert (output / "README.md").stat().st_ino != inode and (output / ".git").is_dir()
    assert codes(output) == codes(tiny_bundle)


@pytest.mark.parametrize("name", ["my-samples/a.txt", "lm/notes.json", "stale.json"])
def test_only_what_an_export_wrote_is_replaced(tiny_bundle: Path, tmp_path: Path, name: str):
    bundle, output = load_bundle(tiny_bundle), tmp_path / "out"
    export_hf(bundle, output)
    (output / name).parent.mkdir(exist_ok=True)
    (output / name).write_text("mine")
    before = files(output)
    with pytest.raises(ConfigError, match=f"no export wrote {name}. Move"):
        export_hf(bundle, output, force=True)
    assert files(output) == before


@pytest.mark.parametrize("parts", ["lm", "codec"])
def test_parts_are_replaced_by_other_parts(tiny_bundle: Path, tmp_path: Path, parts):
    bundle, output = load_bundle(tiny_bundle), tmp_path / "out"
    export_hf(bundle, output, parts=parts)
    export_hf(bundle, output, force=True)
    assert codes(output) == codes(tiny_bundle)
    assert files(output) == {*bundle.manifest.files, "bundle.toml", "README.md"}


def test_a_swap_that_fails_leaves_the_old(tmp_path: Path):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, name in ((old, "a.json"), (new, "a.json"), (new, "b/c.json")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(folder.name)
    (old / "b" / "c.json" / ".hidden").mkdir(parents=True)  # no file can take its place
    with pytest.raises(OSError):
        _swap(new, old, tmp_path / "aside")
    assert (old / "a.json").read_text() == "old" and files(new) == {"a.json", "b/c.json"}


@pytest.mark.fault("R3")
def test_what_a_kill_leaves_of_a_swap_is_replaced(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bundle, replace = load_bundle(tiny_bundle), Path.replace
    count = len(export_hf(bundle, tmp_path / "first").files)
    for last in (0, 1, count // 2, *range(count - 3, count + 3), 2 * count - 1):
        output, left = tmp_path / f"out-{last}", iter(range(last))
        shutil.copytree(tmp_path / "first", output)

        def move(path: Path, target: Path, left=left, place=tmp_path) -> Path:
            if place in path.parents and next(left, None) is None:
                raise KeyboardInterrupt  # nothing is undone either
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", move)
        with pytest.raises(KeyboardInterrupt):
            export_hf(bundle, output, force=True)
        monkeypatch.setattr(Path, "replace", replace)
        export_hf(bundle, output, force=True)
        assert codes(output) == codes(tiny_bundle), last


@pytest.mark.parametrize("place", ["bundle", "bundle/out", ".", "grpo", "grpo/out", "../work", ".."])
def test_an_output_that_touches_a_source_is_refused(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
):
    work = tmp_path / "work"
    shutil.copytree(tiny_bundle, work / "bundle")
    lm = trained(tiny_bundle, work / "grpo")
    monkeypatch.chdir(work)
    before = files(tmp_path)
    with pytest.raises(ConfigError, match=r"is read or in use\. Choose a new folder"):
        export_hf(load_bundle(work / "bundle"), Path(place), Changes(lm=lm), force=True)
    assert files(tmp_path) == before


def test_private_settings_are_left_out(broken_bundle: Path, tmp_path: Path):
    for name in ("config.json", "tokenizer_config.json"):
        path = broken_bundle / "lm" / name
        private = {"_name_or_path": "private/run", "auto_map": {"AutoModel": "evil.Model"}}
        path.write_text(json.dumps(json.loads(path.read_text()) | private | {"part": private}))
    seal(broken_bundle, _settings(read_manifest(broken_bundle), True))
    made = export_hf(load_bundle(broken_bundle), tmp_path / "out").folder
    for name in ("config.json", "tokenizer_config.json"):
        text = (made / "lm" / name).read_text()
        assert "private/run" not in text and "evil" not in text and json.loads(text)["part"] == {}
    same = "codec/config.json"
    assert (made / same).read_bytes() == (broken_bundle / same).read_bytes()


def test_training_facts_hold_numbers_and_known_words_alone(tmp_path: Path):
    content = {
        "steps": 3, "fp16": True, "lr": 1e-5, "optim": "adamw", "peft": {"task_type": "CAUSAL_LM"},
        "mail": "me@example.com", "hostname": "gpu-7", "apikey": "hf_abc", "model_type": "private/run",
        "x@y.z": 5,
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(content))
    expected = {"steps": "3", "fp16": "True", "lr": "1e-05", "optim": "adamw", "peft.task_type": "CAUSAL_LM"}
    assert training_facts(tmp_path) == expected


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ({"temperature": 0.0}, "do_sample=False, repetition_penalty=1.0,"),
        (
            {"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.2},
            "do_sample=True, temperature=0.6, top_p=0.9, top_k=0, repetition_penalty=1.2,",
        ),
    ],
)
def test_the_example_draws_as_the_bundle_does(tiny_bundle: Path, tmp_path: Path, sampling, said: str):
    bundle = published(tiny_bundle, tmp_path / "model")
    drawn = bundle.manifest.sampling.model_copy(update=sampling)
    bundle = replace(bundle, manifest=bundle.manifest.model_copy(update={"sampling": drawn}))
    assert said in (export_hf(bundle, tmp_path / "out").folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (("adapter_config.json",), "it is a LoRA adapter. Name it with --adapter"),
        (("config.json", "pytorch_model.bin"), "found only pytorch_model.bin, which can run code"),
        ((), "there is no config.json with model*.safetensors"),
    ],
)
def test_what_is_no_language_model_is_refused(
    tiny_bundle: Path, tmp_path: Path, there: tuple[str, ...], said: str
):
    lm = tmp_path / "lm"
    lm.mkdir()
    for name in there:
        (lm / name).write_text("{}")
    with pytest.raises(BundleError) as error:
        export_hf(load_bundle(tiny_bundle), tmp_path / "out", Changes(lm=lm))
    assert said in str(error.value)


def test_a_model_that_does_not_fit_is_refused(tiny_bundle: Path, tmp_path: Path):
    lm = trained(tiny_bundle, tmp_path / "grpo")
    config = json.loads((lm / "config.json").read_text())
    (lm / "config.json").write_text(json.dumps(config | {"vocab_size": 70}))
    with pytest.raises(BundleError, match=f"(?s)'{tiny_bundle}.*found 70"):
        export_hf(load_bundle(tiny_bundle), tmp_path / "out", Changes(lm=lm))
    assert not (tmp_path / "out").exists()


def test_the_hub_must_allow_the_name(tiny_bundle: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="Give --repo OWNER/NAME"):
        export_hf(load_bundle(tiny_bundle), tmp_path / "out", Changes(repo="a b/c"))
