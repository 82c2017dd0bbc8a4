#!/usr/bin/env bash
# Teaches the starter Italian, from nothing but Debian's packages; English stays. Every stage resumes where it
# stopped. Needs the packages below, `pip install -e '.[train,eval,languages]'` and about an hour on two cores.
#   recipes/italian.sh [--root FOLDER]   where the packages of texts are unpacked, if not installed
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
LLASA=${LLASA:-.venv/bin/llasa}
OUT=${OUT:-out/italian}
export OMP_NUM_THREADS=1

root=/
while [ $# -gt 0 ]; do
  case $1 in
    --root) root=$2; shift 2 ;;
    *) echo "recipes/italian.sh: unknown option '$1'; use --root FOLDER" >&2; exit 2 ;;
  esac
done

command -v festival >/dev/null && [ -d /usr/share/festival/voices/italian/lp_diphone ] || {
  echo "Missing Debian packages: apt-get install festival festvox-italp16k festvox-itapc16k fortunes-it" \
    "debian-faq-it debian-reference-it" >&2
  exit 3
}

say() { printf '\n== %s\n' "$*"; }
stage() { "$PYTHON" "recipes/italian/$1.py" "${@:2}"; }

say "1 sentences"
[ -f "$OUT/texts/train.txt" ] || stage texts "$OUT/texts" --root "$root"

say "2 speech with word times"
while read -r texts language voice stretch speed skip hours name; do
  split=train
  [ "$texts" != heldout ] || split=test
  stage speech "$OUT/texts/$texts.txt" "$OUT/speech" --voice "$voice" --language "$language" \
    --stretch "$stretch" --speed "$speed" --skip "$skip" --hours "$hours" --name "$name" --split "$split"
done < recipes/italian/speech.txt

say "3 codes"
"$LLASA" prepare "$OUT/speech" "$OUT/codes"

say "4 fine-tuning: symbols for Italian letters come first, and the starter's own codes keep its English"
"$LLASA" train sft recipes/italian/sft.toml --out "$OUT/run" \
  --set "data={ \"$OUT/codes\" = 1.0, \"recipes/artifacts/codes\" = 0.07 }"

say "5 does it read?"
for codes in "$OUT/codes" recipes/artifacts/codes; do
  stage listen "$OUT/run/bundle" "$codes" --rows 100
done
"$LLASA" say "Buongiorno! Il treno per Roma parte alle 9:30." --language it --bundle "$OUT/run/bundle" \
  -o "$OUT/buongiorno.wav"
