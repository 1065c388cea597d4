"""The frozen model inside an estimator: how it is given, what is refused, and how a card names it."""

import copy
import json

import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from tiny_models import make_transformer_model, save_bert
from transformers import BertForSequenceClassification

from st_softinfonce import SoftInfoNCELoss, get_estimator

NAMES = ("simcse", "trained-model", "cross-encoder")


@pytest.fixture
def folder(request, bert_folder, tmp_path):
    """Of the teacher, by the estimator's name."""
    if request.param == "cross-encoder":
        return save_bert(tmp_path / "my-teacher", BertForSequenceClassification, num_labels=1)
    make_transformer_model(bert_folder).save_pretrained(str(tmp_path / "my-teacher"))
    return str(tmp_path / "my-teacher")


every = pytest.mark.parametrize(("name", "folder"), [(name, name) for name in NAMES], ids=NAMES, indirect=["folder"])


def load(name, folder):
    return (CrossEncoder if name == "cross-encoder" else SentenceTransformer)(folder, device="cpu")


@every
def test_a_name_a_path_and_an_instance_are_the_same_teacher(static_model, tmp_path, name, folder):
    teacher = load(name, folder).train()
    teacher.register_parameter("logit_scale", torch.nn.Parameter(torch.tensor(1.0)))  # of no dimension
    loss = SoftInfoNCELoss(static_model, get_estimator(name, model=teacher))
    loss.train()
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    for source in (folder, tmp_path / "my-teacher"):
        estimator = get_estimator(name, model=source, device="cpu")
        config = SoftInfoNCELoss(static_model, estimator).get_config_dict()
        assert json.loads(json.dumps(config)) == config
        assert config["estimator_options"]["teacher"] == "my-teacher"
        assert config["estimator_options"]["teacher_revision"].startswith("weights ")
        assert str(tmp_path) not in json.dumps(config)
    with torch.no_grad():
        next(iter(estimator.encoder.parameters())).add_(1.0)
    other = get_estimator(name, model=estimator.encoder).get_config_dict()
    assert other["teacher_revision"] != config["estimator_options"]["teacher_revision"]


@every
def test_the_model_in_training_is_refused_as_its_own_teacher_and_stays_trainable(name, folder):
    model = load(name, folder)
    sharing = [model] if name == "cross-encoder" else [model, SentenceTransformer(modules=list(model))]
    for teacher in sharing:
        with pytest.raises(ValueError, match=f"'{name}' is the model in training, or shares weights.*deepcopy"):
            SoftInfoNCELoss(model, get_estimator(name, model=teacher))
    assert all(parameter.requires_grad for parameter in model.parameters())
    SoftInfoNCELoss(model, get_estimator(name, model=copy.deepcopy(model)))


@every
def test_what_cannot_be_meant_is_refused(name, folder):
    kind = "CrossEncoder" if name == "cross-encoder" else "SentenceTransformer"
    with pytest.raises(TypeError, match=f"model must be the name or path of a .* {kind}, or such a model, got int"):
        get_estimator(name, model=3)
    with pytest.raises(ValueError, match=r"options \['device'\] cannot be given with a model that is loaded"):
        get_estimator(name, model=load(name, folder), device="cpu")
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1, got 0"):
        get_estimator(name, model=folder, batch_size=0)
