"""Two processes over gloo give the loss and gradients of one process with the whole batch."""

import socket
import subprocess
import sys

import distributed_worker as worker
import pytest
import torch
from conftest import assert_same, make_transformer_model

from st_softinfonce import CachedSoftInfoNCELoss, SoftInfoNCELoss

WORLD_SIZE = 2
WHOLE = slice(0, len(worker.QUERIES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bert_folder):
    folder = tmp_path_factory.mktemp("distributed")
    make_transformer_model(bert_folder).save_pretrained(str(folder / "model"))
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
    # A teacher's similarities are products in float32 of vectors in half precision, padded otherwise.
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if "trained-model" in name else {}
    for found in results:
        assert_same(found[name], whole, **tolerance)
    cls, make, options = worker.CONFIGURATIONS[name]
    half = worker.one_step(worker.load_model(folder), cls, make, options, slice(0, 4))
    assert abs(half[0] - whole[0]) > 1e-3, "half of the batch gives the same: nothing was gathered"


def test_without_weights_two_processes_equal_the_host(results):
    for found in results:
        assert_same(found["unweighted"], found["host"])
        assert_same(found["plain-host-four-ways"], found["host-four-ways"])
        assert_same(found["cached-host-four-ways"], found["host-four-ways"])
        assert abs(found["plain-bm25-queries-one-way"][0] - found["host"][0]) > 1e-4


@pytest.mark.parametrize("kind", ["plain", "cached"])
def test_under_ddp_the_gradients_are_those_of_the_whole_batch(folder, results, kind):
    cls = {"plain": SoftInfoNCELoss, "cached": CachedSoftInfoNCELoss}[kind]
    whole = worker.one_step(worker.load_model(folder), cls, worker.ESTIMATORS["bm25-queries"], {}, WHOLE)
    for found in results:
        value, gradients = found[f"ddp-{kind}"]
        used = {name: gradient for name, gradient in gradients.items() if name in whole[1]}
        assert_same((value, used), whole)


def test_a_sharded_model_has_the_gradients_of_the_whole_batch_and_steps(folder, results):
    model = worker.load_model(folder)
    whole = worker.one_step(model, SoftInfoNCELoss, worker.ESTIMATORS["bm25-queries"], {}, WHOLE)
    for found in results:
        value, gradients, stepped = found["sharded"]
        assert_same((value, {name: gradients[name] for name in whole[1]}), whole)
        for name, gradient in whole[1].items():
            torch.testing.assert_close(stepped[name], model.get_parameter(name).detach() - 0.01 * gradient)
