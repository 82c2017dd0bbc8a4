"""Data sets of every format that is read: what writes one of two sounds, and what is to be found in it."""

import gzip
import io
import json
import tarfile
from pathlib import Path

from llasa.audio import encode, write
from tests.sounds import speechlike

SOUND = speechlike(0.5)
TEXTS = {"a": "Hello there.", "b": "Good day, all."}


def sounds(folder: Path, format: str = "wav") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in TEXTS:
        write(folder / f"{name}.{format}", SOUND)
    return folder


def lines(path: Path, *rows: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")


def ljspeech(root: Path) -> None:
    sounds(root / "wavs")
    lines(root / "metadata.csv", *(f"{name}|{text.upper()}|{text}" for name, text in TEXTS.items()))


def piper(root: Path) -> None:
    sounds(root / "wav")
    lines(root / "metadata.csv", *(f"{name}|ada|{text}" for name, text in TEXTS.items()))


def vits(root: Path) -> None:
    sounds(root / "clips")
    lines(root / "filelists" / "train.txt", *(f"../clips/{name}.wav|{text}" for name, text in TEXTS.items()))


def f5(root: Path) -> None:
    folder = sounds(root / "elsewhere")
    rows = (f"{folder / name}.wav|{text}" for name, text in TEXTS.items())
    lines(root / "metadata.csv", "audio_file|text", *rows)


def hf_folder(root: Path) -> None:
    sounds(root / "train")
    rows = (f'{name}.wav,"{text}"' for name, text in TEXTS.items())
    lines(root / "train" / "metadata.csv", "file_name,transcription", *rows)


def hf_folder_jsonl(root: Path) -> None:
    sounds(root)
    lines(root / "metadata.jsonl", *({"file_name": f"{n}.wav", "text": t} for n, t in TEXTS.items()))


def parquet(root: Path) -> None:
    import pyarrow
    from pyarrow import parquet as tables

    cells = [{"bytes": encode(SOUND, "flac"), "path": f"{name}.flac"} for name in TEXTS]
    columns = {"audio": cells, "text": list(TEXTS.values()), "id": list(TEXTS), "speaker_id": [7, 8]}
    (root / "data").mkdir(parents=True)
    tables.write_table(
        pyarrow.table(columns), root / "data" / "test-00000-of-00001.parquet", row_group_size=1
    )


def saved_by_datasets(root: Path) -> None:
    from datasets import Audio as Column
    from datasets import Dataset

    cells = [{"bytes": encode(SOUND, "wav"), "path": None} for _ in TEXTS]
    rows = Dataset.from_dict({"audio": cells, "text": list(TEXTS.values()), "id": list(TEXTS)})
    rows.cast_column("audio", Column(decode=False)).save_to_disk(str(root))


def common_voice(root: Path) -> None:
    sounds(root / "en" / "clips", "mp3")
    head = "client_id\tpath\tsentence\tup_votes\tlocale"
    for split, name in (("train", "a"), ("dev", "b")):
        lines(root / "en" / f"{split}.tsv", head, f"person\t{name}.mp3\t{TEXTS[name]}\t2\ten-GB")
    lines(root / "en" / "validated.tsv", head, "person\ta.mp3\tunused\t2\ten-GB")


def nemo(root: Path) -> None:
    write(root / "long.wav", speechlike(2.0))
    rows = ({"audio_filepath": "long.wav", "offset": i * 0.5, "duration": 0.5, "text": t, "lang": "de-DE"}
            for i, t in enumerate(TEXTS.values()))  # fmt: skip
    lines(root / "train_manifest.json", *rows)


def lhotse(root: Path) -> None:
    write(root / "long.flac", speechlike(2.0))
    source = {"type": "file", "channels": [0], "source": "long.flac"}
    recording = {
        "id": "r",
        "sources": [source],
        "sampling_rate": 16000,
        "num_samples": 32000,
        "duration": 2.0,
    }
    lines(root / "recordings.jsonl", recording)
    rows = [{"id": name, "recording_id": "r", "start": 0.5 + i, "duration": 0.5, "channel": 0, "text": text,
             "speaker": "s", "language": "English", "alignment": {"word": [["one", 0.5 + i, 0.2, 0.9]],
             "phone": [["W", 0.5 + i, 0.1], ["AH", 0.6 + i, 0.1]]}}
            for i, (name, text) in enumerate(TEXTS.items())]  # fmt: skip
    with gzip.open(root / "supervisions.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def cuts(root: Path) -> None:
    lhotse(root)
    recording = json.loads((root / "recordings.jsonl").read_text())
    rows = ({"id": f"cut-{n}", "start": 0.5, "duration": 1.0, "channel": 0, "recording": recording,
             "supervisions": [{"id": n, "recording_id": "r", "start": 0.25, "duration": 0.5, "text": t}]}
            for n, t in TEXTS.items())  # fmt: skip
    lines(root / "cuts.jsonl", *rows)


def webdataset(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / "shard-0.tar", "w") as archive:
        for name, text in TEXTS.items():
            facts = json.dumps({"id": name, "text": text, "speaker": "s", "language": "zh"}).encode()
            for ending, data in (("json", facts), ("mp3", encode(SOUND, "mp3"))):
                member = tarfile.TarInfo(f"./{name}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def emilia(root: Path) -> None:
    sounds(root / "EN_B0", "mp3")
    lines(root / "EN_B0.jsonl", *({"id": n, "wav": f"EN_B0/{n}.mp3", "text": t, "duration": 0.5,
          "speaker": "EN_B0_S1", "language": "en", "dnsmos": 3.3} for n, t in TEXTS.items()))  # fmt: skip


def fish(root: Path) -> None:
    sounds(root / "ada")
    for name, text in TEXTS.items():
        (root / "ada" / f"{name}.lab").write_text(text + "\n", encoding="utf-8")


def voxcpm(root: Path) -> None:
    sounds(root)
    lines(root / "data.jsonl", *({"audio": str(root / f"{n}.wav"), "text": t} for n, t in TEXTS.items()))


def inworld(root: Path) -> None:
    sounds(root)
    lines(root / "val.jsonl", *({"wav_path": f"{n}.wav", "transcript": t, "language": "it", "duration": 0.5,
          "sample_rate": 16000} for n, t in TEXTS.items()))  # fmt: skip


def alone(root: Path) -> None:
    sounds(root / "ada")


# builder: kind, and facts of the first clip
LAYOUTS = {
    ljspeech: ("ljspeech", {"id": "wavs/a"}),
    piper: ("piper", {"speaker": "ada"}),
    vits: ("piper", {"split": "train", "id": "clips/a"}),
    f5: ("f5", {}),
    hf_folder: ("hf-folder", {"split": "train"}),
    hf_folder_jsonl: ("hf-folder", {}),
    parquet: ("parquet", {"split": "test", "id": "a", "speaker": "7"}),
    saved_by_datasets: ("parquet", {"id": "a"}),
    common_voice: ("common-voice", {"split": "dev", "id": "b", "language": "en", "speaker": "person"}),
    nemo: ("nemo", {"start_s": 0.0, "end_s": 0.5, "language": "de", "split": "train", "id": "long@0.000"}),
    lhotse: ("lhotse", {"id": "a", "start_s": 0.5, "end_s": 1.0, "speaker": "s", "language": "en",
                        "words": (("one", 0.2),), "phones": (("W", 0.1), ("AH", 0.2))}),
    cuts: ("lhotse", {"id": "a", "start_s": 0.75, "end_s": 1.25}),
    webdataset: ("webdataset", {"id": "a", "speaker": "s", "language": "zh"}),
    emilia: ("emilia", {"id": "a", "speaker": "EN_B0_S1"}),
    fish: ("fish", {"id": "ada/a", "speaker": "ada"}),
    voxcpm: ("jsonl", {}),
    inworld: ("jsonl", {"split": "dev", "language": "it"}),
    alone: ("audio", {"id": "ada/a", "speaker": "ada", "text": ""}),
}  # fmt: skip
