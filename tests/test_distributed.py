"""Two processes over gloo give the loss and gradients of one process with the whole batch."""

import socket
import subprocess
import sys

import distributed_worker as worker
import pytest
import torch
from conftest import assert_same, make_transformer_model
from test_published import make_guide

from st_softinfonce import BM25Estimator, CachedSoftInfoNCELoss, SoftInfoNCELoss

WORLD_SIZE = 2
WHOLE = slice(0, len(worker.QUERIES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bert_folder):
    folder = tmp_path_factory.mktemp("distributed")
    make_transformer_model(bert_folder).save_pretrained(str(folder / "model"))
    make_guide(folder / "guide-bert").save_pretrained(str(folder / "guide"))
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """What each of the processes found, by its rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    commands = [
        [sys.executable, worker.__file__, str(rank), str(WORLD_SIZE), str(port), str(folder)]
        for rank in range(WORLD_SIZE)
    ]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for command in commands
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-5000:]
    return [torch.load(folder / f"results-{rank}.pt", weights_only=True) for rank in range(WORLD_SIZE)]


@pytest.mark.filterwarnings("ignore::st_softinfonce.functional.SmallBatchWarning")  # of the half that must differ
@pytest.mark.parametrize("name", worker.CONFIGURATIONS)
def test_two_processes_equal_one_with_the_whole_batch(folder, results, name):
    whole = worker.one_step(worker.load_model(folder), *worker.CONFIGURATIONS[name], WHOLE)
    for found in results:
        assert_same(found[name], whole)
    cls, make, options = worker.CONFIGURATIONS[name]
    half = worker.one_step(worker.load_model(folder), cls, make, options, slice(0, 4))
    assert abs(half[0] - whole[0]) > 1e-3, "half of the batch gives the same: nothing was gathered"


def test_without_weights_two_processes_equal_the_host(results):
    for found in results:
        assert_same(found["unweighted"], found["host"])
        assert_same(found["plain-host-four-ways"], found["host-four-ways"])
        assert_same(found["cached-host-four-ways"], found["host-four-ways"])
        assert abs(found["plain-bm25-queries-one-way"][0] - found["host"][0]) > 1e-4


@pytest.mark.parametrize("blocks", ["alone", "anchors", "positives"])
@pytest.mark.parametrize("strategy", worker.MARGINS)
@pytest.mark.parametrize("kind", ["plain", "cached"])
def test_guided_by_a_teacher_two_processes_equal_one_and_the_host(whole_guided, results, kind, strategy, blocks):
    name = f"{kind}-{strategy}-{blocks}"
    whole = whole_guided[f"ours-{name}"]
    assert_same(whole, whole_guided[f"host-{name}"])
    for found in results:
        assert_same(found[f"ours-{name}"], whole)
        if blocks == "anchors":
            # The host does not gather the anchors: to each process the others' queries are no candidates.
            assert abs(found[f"host-{name}"][0] - whole[0]) > 1e-3
        else:
            assert_same(found[f"host-{name}"], whole)


@pytest.fixture(scope="module")
def whole_guided(folder):
    return worker.guided_steps(folder, worker.load_model(folder), WHOLE, gather=False)


@pytest.mark.parametrize("kind", ["plain", "cached"])
def test_under_ddp_the_gradients_are_those_of_the_whole_batch(folder, results, kind):
    cls = {"plain": SoftInfoNCELoss, "cached": CachedSoftInfoNCELoss}[kind]
    whole = worker.one_step(worker.load_model(folder), cls, BM25Estimator, {}, WHOLE)
    for found in results:
        value, gradients = found[f"ddp-{kind}"]
        used = {name: gradient for name, gradient in gradients.items() if name in whole[1]}
        assert_same((value, used), whole)


@pytest.mark.parametrize("kind", ["plain", "cached"])
def test_the_trainer_on_two_processes_ends_where_one_with_the_whole_batch_does(folder, results, tmp_path, kind):
    cls = {"plain": SoftInfoNCELoss, "cached": CachedSoftInfoNCELoss}[kind]
    steps, whole = worker.train(folder, tmp_path, cls, len(worker.QUERIES))
    start = worker.load_model(folder).float().state_dict()
    for found in results:
        assert found[f"trainer-{kind}"][0] == steps
        for name, value in found[f"trainer-{kind}"][1].items():
            torch.testing.assert_close(value, whole[name], rtol=1e-3, atol=1e-4)
    assert max((whole[name] - start[name]).abs().max() for name in whole) > 1e-3


def test_a_sharded_model_has_the_gradients_of_the_whole_batch_and_steps(folder, results):
    model = worker.load_model(folder)
    whole = worker.one_step(model, SoftInfoNCELoss, BM25Estimator, {}, WHOLE)
    for found in results:
        value, gradients, stepped = found["sharded"]
        assert_same((value, {name: gradients[name] for name in whole[1]}), whole)
        for name, gradient in whole[1].items():
            torch.testing.assert_close(stepped[name], model.get_parameter(name).detach() - 0.01 * gradient)
