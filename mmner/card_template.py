"""The words of the model card; `mmner.model_card` fills in what is in braces."""

TEMPLATE = """\
# {name}

Named entity recognition in a text {pictures_in_short}: a [2M-NER]({paper}) model for {languages}, with the entity
types {types}. Each entity comes with its character offsets and a score: the exact posterior, under the CRF, that these
words and no more are an entity of this type.

{synthetic}## Use

It needs `torch`, `transformers` and `pillow`, nothing else. `trust_remote_code=True` runs the Python files of this
repository; read them first, and pin a `revision`.

{pipeline_snippet}

{output}

By hand, word by word:

{auto_snippet}

### Train it further on your own data

{train_snippet}

With the source code of 2M-NER, a whole run (the best checkpoint on the dev set, scores by language and type, both
controls, this card) is one command, with the options in `recipe.yaml`:

```bash
python run_mmner.py recipe.yaml --model_name_or_path {location} --dataset path/to/folder --output_dir outputs/mine
```

## Results

{results}

## Data

{data}

## Training

{towers}

{facts}

{curve}The options that differ from the defaults ([`recipe.yaml`](recipe.yaml) has the others too, and leaves out what
holds for this set alone):

```yaml
{recipe}
```

## Limits

{limits}

## Licence

{licence}

## Citation

```bibtex
{citation}
```
"""

PIPELINE_SNIPPET = """\
```python
from transformers import pipeline

ner = pipeline("token-classification", model="{location}", trust_remote_code=True)
ner("{example}")
```
"""
PIPELINE_SNIPPET_WITH_IMAGE = """\
```python
from transformers import pipeline

ner = pipeline("token-classification", model="{location}", trust_remote_code=True)
ner("{example}")  # text alone
ner("{example}", images="photo.jpg")  # with its picture: a path, URL, PIL image, bytes or array
```
"""
AUTO_SNIPPET = """\
```python
import torch
from transformers import AutoModelForTokenClassification, AutoProcessor

processor = AutoProcessor.from_pretrained("{location}", trust_remote_code=True)
model = AutoModelForTokenClassification.from_pretrained("{location}", trust_remote_code=True)

words, offsets = processor.split_words("{example}")
batch = processor([words], images={images})
with torch.no_grad():
    predictions = model(**batch).predictions  # the Viterbi tag of each word: (1, number of words)
tags = [model.config.id2label[tag] for tag in predictions[0].tolist()]
```
"""
TRAIN_SNIPPET = """\
```python
import torch
from transformers import AutoModelForTokenClassification, AutoProcessor

processor = AutoProcessor.from_pretrained("{location}", trust_remote_code=True)
model = AutoModelForTokenClassification.from_pretrained("{location}", trust_remote_code=True).train()

rows = [  # your own: words, their tags, and a picture or None
    {{"tokens": ["Jordan", "was", "here", "."], "ner_tags": ["B-{kind}", "O", "O", "O"], "image": {image}}},
    {{"tokens": ["Nothing", "happened", "."], "ner_tags": ["O", "O", "O"], "image": None}},
]
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
for epoch in range(3):
    for start in range(0, len(rows), 8):
        batch = rows[start : start + 8]
        inputs = processor(
            [row["tokens"] for row in batch],
            images=[row["image"] for row in batch],
            word_labels=[[model.config.label2id[tag] for tag in row["ner_tags"]] for row in batch],
        )
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

model.save_pretrained("mine")
processor.save_pretrained("mine")
```
"""

SYNTHETIC = (
    "> **Synthetic data.** This model was trained and scored on the probe: template sentences and drawn pictures,\n"
    "> made by code, in which only the picture tells the type of a name. It shows that the image is used; it is of\n"
    "> no use on natural text.\n\n"
)

LIMITS = (
    "Entities are flat: none inside another, none with a gap.",
    "It was scored on the data above alone; on other kinds of text expect less.",
    "Words are split at spaces and punctuation, which does not suit scripts without spaces.",
    "A text longer than the text tower takes is read in overlapping windows and decoded once; what is further away "
    "than a window is not seen.",
)
LIMITS_OF_PICTURES = (
    "A score with pictures means little alone: compare it with *text only* and *shuffled* in the same row.",
    "Many pictures have nothing to do with the entities of their text, and some mislead.",
)

CITATION = """\
@article{wang2024twomner,
  title   = {2M-NER: Contrastive Learning for Multilingual and Multimodal NER with Language and Modal Fusion},
  author  = {Wang, Dongsheng and Feng, Xiaoqin and Liu, Zeming and Wang, Chuan},
  journal = {Applied Intelligence},
  year    = {2024},
  url     = {https://arxiv.org/abs/2404.17122}
}"""
