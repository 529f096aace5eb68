# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Notebook: your folder
#
# Pictures in folders, one folder for each of your labels, become an adapter that reads new faces with these labels.
# Run the cells from top to bottom; it takes half a minute on one core. It paints its own pictures, so that it needs no
# data and no network.

# %%
import tempfile
from pathlib import Path

from datasets import disable_progress_bars
from PIL import Image

from ciao_peft import (
    AutoCIAOModel,
    CIAOConfig,
    CIAOTrainer,
    CIAOTrainingArguments,
    get_ciao_model,
    load_encoder,
    load_faces,
)
from ciao_peft.data import Expression, labels_of, paint_face
from ciao_peft.metrics import confusion_matrix

root = Path(tempfile.mkdtemp())
disable_progress_bars()

# %% [markdown]
# ## The pictures
#
# With pictures of your own, write `faces_dir = Path("/your/faces")` here and leave the loop out. The folder holds
# `train/` and `test/`, and in each a folder for every label. Nobody in `test/` should be in `train/`.

# %%
faces_dir = root / "faces"
moods = {
    "calm": Expression(),
    "glad": Expression(mouth_curve=1.0, mouth_open=0.4),
    "startled": Expression(mouth_open=1.0, brow_raise=1.0, eye_open=1.0),
}
for split, people in {"train": range(30), "test": range(100, 112)}.items():
    for mood, expression in moods.items():
        (faces_dir / split / mood).mkdir(parents=True)
        for person in people:
            paint_face(expression=expression, seed=person).save(faces_dir / split / mood / f"{person}.png")

# %% [markdown]
# One person in every mood:

# %%
row = Image.new("RGB", (3 * 128, 128))
for number, mood in enumerate(moods):
    row.paste(Image.open(faces_dir / "train" / mood / "3.png").resize((128, 128)), (number * 128, 0))
row.resize(row.size)

# %% [markdown]
# ## Load, adapt, train
#
# `small-face` knows how to tell people apart and nothing of moods. It stays frozen; the adapter learns your labels.

# %%
faces = load_faces("imagefolder", faces_dir, cache_dir=root / "cache")
labels = labels_of(faces["train"])
print(f"{len(faces['train'])} pictures to train with, {len(faces['test'])} to test with: {', '.join(labels.names)}")

# %%
model = get_ciao_model(load_encoder("small-face"), CIAOConfig(**labels.as_config()), adapter_name="moods")
arguments = CIAOTrainingArguments(output_dir=str(root / "run"), num_train_epochs=6, report_to="none", disable_tqdm=True)
trainer = CIAOTrainer(model, arguments)
trainer.train(faces["train"])
scores = trainer.evaluate(faces["test"])
print(f"accuracy on people it never saw: {scores['eval_accuracy']:.2f} (guessing gives 0.33)")

# %% [markdown]
# ## Where it goes wrong
#
# True labels in rows, answers in columns.

# %%
answers = trainer.predict(faces["test"])
print(" " * 10 + "".join(f"{name:>10}" for name in labels.names))
for name, counts in zip(labels.names, confusion_matrix(answers.logits.argmax(1), answers.labels), strict=True):
    print(f"{name:<10}" + "".join(f"{int(count):>10}" for count in counts))

# %% [markdown]
# ## Save it, and read a face with what was saved

# %%
folder = trainer.save_adapter(root / "moods")
reader = AutoCIAOModel.from_pretrained(folder).eval()
answer = reader.predict(faces_dir / "test" / "glad" / "100.png")
for mood, probability in answer.items():
    print(f"{mood:<10}{probability:.2f}")

# %% [markdown]
# Next: [several worlds on one encoder](many_worlds.py), or [the tutorial](../tutorial.md) with the same in more words.
