"""Tensors of images on disk, written and read by any number of processes at once."""

import multiprocessing

import pytest
import torch

from mmner.data.feature_store import FeatureStore


def tensors_of(image_id: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(image_id)
    return [torch.randn(4, 3, generator=generator).bfloat16(), torch.randn(1, 2, generator=generator)]


def assert_holds(store: FeatureStore, image_id: int) -> None:
    for found, expected in zip(store[image_id], tensors_of(image_id), strict=True):
        assert found.dtype == expected.dtype and torch.equal(found, expected)


def test_tensors_come_back_bit_for_bit_and_in_order(tmp_path):
    store = FeatureStore(tmp_path, "print")
    image_id = 2**63 - 1
    assert image_id not in store
    with pytest.raises(KeyError, match=f"The image {image_id} is not in .*print"):
        store[image_id]
    store.add(image_id, tensors_of(image_id))
    for again in (store, FeatureStore(tmp_path, "print")):
        assert image_id in again
        assert_holds(again, image_id)
    assert image_id not in FeatureStore(tmp_path, "other")


def test_a_view_of_a_batch_is_stored_alone(tmp_path):
    store = FeatureStore(tmp_path, "print")
    store.add(1, [torch.arange(10.0).view(5, 2).t()[:, 1]])
    assert store[1][0].tolist() == [2.0, 3.0]


def fill(folder, first: int) -> None:
    store = FeatureStore(folder, "print")
    for image_id in range(first, first + 20):
        store.add(image_id, tensors_of(image_id))


def test_processes_write_at_once_even_the_same_image(tmp_path):
    processes = [multiprocessing.Process(target=fill, args=(tmp_path, first)) for first in (1, 11)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    store = FeatureStore(tmp_path, "print")
    for image_id in range(1, 31):
        assert_holds(store, image_id)
    assert len([path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".safetensors"]) == 1


def test_what_a_killed_writer_left_is_not_read(tmp_path):
    store = FeatureStore(tmp_path, "print")
    store.add(7, tensors_of(7))
    (file,) = tmp_path.rglob("*.safetensors")
    file.rename(file.with_suffix(".123"))  # not yet renamed
    assert 7 not in FeatureStore(tmp_path, "print")


def test_a_folder_of_others_is_refused(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        FeatureStore(tmp_path, "print")
