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
# # Notebook: many worlds
#
# A world is a dataset with labels of its own. One frozen encoder carries an adapter for each world, and a face goes
# through the encoder once for all of them. The adapters of this notebook come with the package; one more is trained
# next to them.

# %%
import io
import tempfile

from datasets import disable_progress_bars
from PIL import Image

from ciao_peft import (
    CIAOConfig,
    CIAOModel,
    CIAOTrainer,
    CIAOTrainingArguments,
    load_encoder,
    load_faces,
    saliency_picture,
)
from ciao_peft.data import Expression, labels_of, paint_face

root = tempfile.mkdtemp()
disable_progress_bars()

# %% [markdown]
# ## Three worlds that come with the package

# %%
encoder = load_encoder("dlib-face")
model = CIAOModel.from_pretrained(encoder, "ciao/painted-eight")
model.load_adapter("ciao/painted-affect")
model.load_adapter("ciao/painted-signals")
model.eval()

glad = paint_face(expression=Expression(mouth_curve=1.0, mouth_open=0.3), seed=4, size=150)
startled = paint_face(expression=Expression(mouth_open=1.0, brow_raise=1.0, eye_open=1.0), seed=7, size=150)
worlds = ["painted-eight", "painted-affect", "painted-signals"]
for name, answer in model.predict(glad, adapter_names=worlds).items():
    print(f"{name}: " + ", ".join(f"{label} {value:.2f}" for label, value in answer.items()))

# %% [markdown]
# The first world names one of eight expressions, the second gives two numbers, the third a set of signals of which
# several may hold. What each of them rests on:

# %%
png = saliency_picture(model, [glad, startled], worlds)
Image.open(io.BytesIO(png))

# %% [markdown]
# ## One more world, next to the others
#
# The new adapter changes no tensor of the encoder, and none of the other adapters.

# %%
before = model.predict(glad, adapter_names=["painted-eight"])
sizes = {"num_train": 120, "num_validation": 16, "num_test": 60, "size": 150}
faces = load_faces("painted_faces", world="seven", cache_dir=root, **sizes)
config = CIAOConfig(**labels_of(faces["train"]).as_config(), inhibition_rank=8, spatial_maps=8)
model.add_adapter("mine", config)
arguments = CIAOTrainingArguments(output_dir=root, num_train_epochs=4, report_to="none", disable_tqdm=True)
trainer = CIAOTrainer(model, arguments, adapter_name="mine")
trainer.train(faces["train"])
print(f"accuracy in the new world: {trainer.evaluate(faces['test'])['eval_accuracy']:.2f} (guessing gives 0.14)")
print("the others answer as before:", model.eval().predict(glad, adapter_names=["painted-eight"]) == before)

# %% [markdown]
# ## What each world costs

# %%
for name in [*worlds, "mine"]:
    print(f"{name:<16}{sum(one.numel() for one in model.adapters[name].parameters()):>10,} numbers")
print(f"{'the encoder':<16}{sum(one.numel() for one in encoder.parameters()):>10,} numbers, held once")

# %% [markdown]
# More: [work with adapters](../howto/adapters.md), [see what the mask lets through](../howto/saliency.md),
# [make adapters small](../howto/small.md).
