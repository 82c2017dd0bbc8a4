#!/usr/bin/env bash
# Builds the starter bundle from nothing into src/llasa/assets/starter. Every stage resumes where it stopped.
# Needs: the Debian packages below, `pip install -e '.[train,eval]'`, about ten hours on two idle cores.
#   recipes/starter.sh [--extra-audio FOLDER] [--text FILE]
# --extra-audio: recordings of many people for the codec, one clip a speaker; every tenth is held out.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
LLASA=${LLASA:-.venv/bin/llasa}
OUT=${OUT:-out}
export PYTHONPATH="recipes/starter" OMP_NUM_THREADS=1 LLASA_HOME="$OUT/home"

at() { (cd "$here" && realpath -e "$1"); }  # a path as the caller means it

extra_audio="" text=()
while [ $# -gt 0 ]; do
  case $1 in
    --extra-audio) extra_audio=$(at "$2"); shift 2 ;;
    --text) more=$(at "$2"); text+=(--text "$more"); shift 2 ;;
    *) echo "recipes/starter.sh: unknown option '$1'; use --extra-audio FOLDER or --text FILE" >&2; exit 2 ;;
  esac
done

ldconfig -p | grep libflite_cmu_us_rms >/dev/null && command -v festival >/dev/null &&
  [ -d /usr/share/festival/voices/us/cmu_us_slt_arctic_hts ] || {
  echo "Missing Debian packages: apt-get install libflite1 festival festvox-kallpc16k festvox-kdlpc16k" \
    "festvox-us-slt-hts" >&2
  exit 3
}

say() { printf '\n== %s\n' "$*"; }
stage() { "$PYTHON" "recipes/starter/$1.py" "${@:2}"; }
train() { "$LLASA" train "$1" "recipes/starter/$2.toml" --out "$OUT/runs/$3" "${@:4}"; }
codec="$OUT/runs/codec/codec"

say "1 sentences"
[ -f "$OUT/texts.txt" ] || stage texts "$OUT/texts.txt" "${text[@]}"

say "2 lexicon and letter-to-sound model"
phones=src/llasa/assets/starter/phones
[ -f "$phones/letters.safetensors" ] || "$LLASA" train letters "$phones"

say "3 speech with word and phone times"
while read -r engine voice skip hours stretch pitch speed name; do
  stage speech "$OUT/texts.txt" "$OUT/speech" --engine "$engine" --voice "$voice" --skip "$skip" \
    --hours "$hours" --stretch "$stretch" --pitch "$pitch" --speed "$speed" --name "$name"
done < recipes/starter/speech.txt

say "4 codec"
sounds="{ path = \"$OUT/speech\" }"
[ -z "$extra_audio" ] ||
  sounds="$sounds, { path = \"$extra_audio\", kind = \"audio\", weight = 4.0, held_out = 0.1 }"
train codec codec codec --set "data=[$sounds]"

say "4b streaming decoder of the codec"
train codec streaming streaming --set "data=[$sounds]" --set "init=\"$codec\""

say "5 codes"
"$LLASA" prepare "$OUT/speech" "$OUT/codes" --codec "$codec"

say "6 language model, and an early one: what search and reinforcement are measured on"
train sft lm lm --set "data=\"$OUT/codes\"" --set "codec=\"$codec\""
train sft lm lm-early --set "data=\"$OUT/codes\"" --set "codec=\"$codec\"" \
  --set trainer.max_steps=2500 --set trainer.lr_scheduler_kwargs.num_decay_steps=1700

say "7 recognisers A and B"
for name in recognizer-a recognizer-b; do
  train recognizer "$name" "$name" --set "data.0.path=\"$OUT/speech\"" --set "copies.codec=\"$codec\"" \
    --set "copies.folder=\"$OUT/copies\""
done

say "8 voices, by the cloning path"
while IFS=$'\t' read -r voice name words; do
  [ -f "$LLASA_HOME/voices/$name.safetensors" ] || {
    stage reference "$voice" "$words" "$OUT/references/$name.wav"
    "$LLASA" voice add "$name" "$OUT/references/$name.wav" --text "$words" --bundle "$OUT/runs/lm/bundle" \
      --source "synthetic: flite voice cmu_us_$voice" --consent "not a person"
  }
done < recipes/starter/voices.txt

say "9 bundle"
stage pack --out "$OUT"

say "10 listening: the source voices, their codec copies, the starter"
stage listen --voices rms=rufus awb=angus kal16=kalle --bundle starter --out "$OUT/listening"
