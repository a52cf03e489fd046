#!/bin/sh
# Loads a model where there is nothing but torch, transformers and pillow: all that a published model needs.
#
#     benchmarks/reliability/fresh_environment.sh outputs/probe            # a folder
#     benchmarks/reliability/fresh_environment.sh org/name [revision]      # from the Hub, or from the one at HF_ENDPOINT
set -eu
if [ -d "$1" ]; then model=$(cd "$1" && pwd); else model=$1; fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers pillow
cd "$scratch"
HF_HOME="$scratch/home" "$scratch/venv/bin/python" -I - "$model" "${2:-main}" <<'EOF'
import sys

from PIL import Image
from transformers import AutoModel, AutoModelForTokenClassification, AutoProcessor, pipeline

name, revision = sys.argv[1:]
options = {"trust_remote_code": True, "revision": revision}
AutoModel.from_pretrained(name, **options)
AutoModelForTokenClassification.from_pretrained(name, **options)
AutoProcessor.from_pretrained(name, **options)
ner = pipeline("token-classification", model=name, **options)
print(ner("Jordan was seen in Paris."))
print(ner("Jordan was seen in Paris.", images=Image.new("RGB", (64, 64), "red")))
EOF
