#!/usr/bin/env bash
# Builds the starter bundle from nothing into src/llasa/assets/starter. Every stage resumes where it stopped.
# Needs: Debian's packages below, `pip install -e '.[train,eval]'`, and about three hours on two cores.
#   recipes/starter.sh [--extra-audio FOLDER] [--text FILE]
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-out}
export PYTHONPATH="src:recipes/starter" OMP_NUM_THREADS=1

extra_audio="" text=()
while [ $# -gt 0 ]; do
  case $1 in
    --extra-audio) extra_audio=$2; shift 2 ;;
    --text) text+=(--text "$2"); shift 2 ;;
    *) echo "recipes/starter.sh: unknown option '$1'; use --extra-audio FOLDER or --text FILE" >&2; exit 2 ;;
  esac
done

command -v flite >/dev/null || {
  echo "Missing Debian packages: apt-get install flite libflite1 wordnet-base fortunes anarchism debian-handbook dict-jargon dict-foldoc" >&2
  exit 3
}

say() { printf '\n== %s\n' "$*"; }
stage() { "$PYTHON" "recipes/starter/$1.py" "${@:2}"; }
speech() { stage speech "$OUT/texts.txt" "$OUT/speech" "$@"; }

say "1 text"
[ -f "$OUT/texts.txt" ] || stage texts "$OUT/texts.txt" "${text[@]}"

say "2 letter-to-sound and lexicon"
[ -f src/llasa/assets/starter/phones/letters.safetensors ] || "$PYTHON" -m llasa.train.letters src/llasa/assets/starter/phones

say "3 speech"
while read -r voice skip hours stretch pitch speed name; do
  speech --voice "$voice" --skip "$skip" --hours "$hours" --stretch "$stretch" --pitch "$pitch" --speed "$speed" --name "$name"
done < recipes/starter/speech.txt
[ -z "$extra_audio" ] || [ -f "$OUT/speech/extra.jsonl" ] || stage extra "$extra_audio" "$OUT/speech"

say "4 codec: codes, then vocoder on real mel, then both tuned together"
mapfile -t heard < <(cd "$OUT/speech" && ls ./*-c.jsonl extra.jsonl 2>/dev/null | sed 's,^\./,,; s,\.jsonl$,,')
stage codec tokenizer --shards "$OUT/speech" --runs "$OUT/runs" --names "${heard[@]}" --steps 3600
stage codec vocoder --shards "$OUT/speech" --runs "$OUT/runs" --names "${heard[@]}" --steps 3600
stage codec decoder --shards "$OUT/speech" --runs "$OUT/runs" --names "${heard[@]}" --steps 2500 --export "$OUT/codec"

say "5 codes"
stage codes --speech "$OUT/speech" --codec "$OUT/codec" --out "$OUT/codes"

say "6 language model"
stage lm --codes "$OUT/codes" --codec "$OUT/codec" --run "$OUT/runs/lm" --out "$OUT/lm" --steps 5800

say "7 recognisers A and B"
for layout in A B; do
  stage recognizer --layout "$layout" --codec "$OUT/codec" --shards "$OUT/speech" --steps 3000
done

say "8 voices and bundle"
stage voices rms slt awb kal16 --codec "$OUT/codec" --out "$OUT/voices"
stage pack --out "$OUT"
