"""Recipes and the command line: types, precedence, and errors that say what to do."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from configuration_2mner import TwoMNERConfig
from mmner.options import (
    RECIPES,
    DataArguments,
    ModelArguments,
    find_recipe,
    is_slow_in_bfloat16,
    parse_arguments,
    recipe_text,
)


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe and gives its path."""

    def write(text: str) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(f"output_dir: {tmp_path}/out\nuse_cpu: true\n{text}", encoding="utf-8")
        return str(path)

    return write


def test_a_recipe_is_typed_as_the_command_line_is(recipe):
    text = "learning_rate: 1e-4\ncrf_learning_rate: 1.0e-2\nmodality_dropout: 0\nfreeze_text_model: 3\n"
    text += "do_predict: false\nsave_total_limit: null\nlr_scheduler_kwargs: {num_cycles: 2}\nlabel_names: [labels]\n"
    model, _, training = parse_arguments([recipe(text)])  # 1e-4 is text to YAML
    assert (training.learning_rate, training.crf_learning_rate) == (1e-4, 1e-2)
    assert model.modality_dropout == 0.0 and isinstance(model.modality_dropout, float)
    assert model.freeze_text_model == "3"
    assert training.do_predict is False and training.save_total_limit is None
    assert training.lr_scheduler_kwargs == {"num_cycles": 2} and training.label_names == ["labels"]


def test_the_command_line_overrides_the_recipe(recipe):
    path = recipe("learning_rate: 1e-4\nalignment: clip\ndo_eval: true\n")
    model, _, training = parse_arguments([path, "--learning_rate", "3e-4", "--alignment=token", "--no_do_eval"])
    # The plain class switches do_eval on whenever dev is scored in training.
    assert (training.learning_rate, model.alignment, training.do_eval) == (3e-4, "token", False)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid(path, tmp_path):
    model, _, training = parse_arguments([str(path), "--output_dir", str(tmp_path), "--use_cpu", "--bf16", "false"])
    config = TwoMNERConfig(**model.config_options())
    # `small` trains a model whose choices were made before.
    chooses = path.stem != "small"
    assert training.load_best_model_at_end == chooses == (training.eval_strategy != "no")
    if path.stem == "paper":
        # 2 * (0.8 * ner + 0.2 * (cl_a + cl_b)), temperature 0.5: PAPER section 3.4 and the release
        assert (config.ner_weight, config.alignment_weight) == (2 * 0.8, 2 * 0.2)
        assert (config.alignment, config.alignment_temperature, config.text_pooling) == ("nt_xent", 0.5, "first")
        assert (config.collaboration, config.collaboration_heads) == ("cross_attention", 12)
        assert (training.learning_rate, training.num_train_epochs, training.train_batch_size) == (5e-5, 8, 32)
        assert training.get_warmup_steps(1000) == 0 and training.weight_decay == 0
        assert all(getattr(training, f"{part}_learning_rate") is None for part in ("text", "vision", "head", "crf"))


def test_every_option_of_the_configuration_can_be_given():
    base = {field.name for field in dataclasses.fields(TwoMNERConfig.__mro__[1])}
    towers = ("_config", "image_normalization", "initializer_range")  # what the towers tell, or nobody sets
    names = {field.name for field in dataclasses.fields(TwoMNERConfig)} - base
    options = {name for name in names if not name.endswith(towers)}
    assert "alignment_temperature" in options
    assert options <= {field.name for field in dataclasses.fields(ModelArguments)}


@pytest.mark.parametrize(
    ("text", "argv", "message"),
    [
        ("", "--learnig_rate 1", "Unknown option '--learnig_rate' on the command line. Did you mean --learning_rate"),
        ("", "--learn 1", "Unknown option '--learn'"),  # argparse alone would take it for --learning_rate
        ("", "--qqqqqqqqqqq 1", "`--help` lists all there are"),
        ("", "--learning_rate fast", "Argument --learning_rate/--learning-rate: invalid float value: 'fast'"),
        ("", "--alignment clap", "invalid choice: 'clap' (choose from 'none', 'nt_xent', 'clip', 'siglip', 'token')"),
        ("", "other.yaml", "Cannot place 'other.yaml' on the command line; expected at most one recipe, first"),
        ("", "--label_smoothing_factor 0.1", "--label_smoothing_factor is 0.1; it must stay 0.0"),
        ("", "--early_stopping_patience 2 --load_best_model_at_end false", "needs --load_best_model_at_end"),
        (
            "",
            "--eval_strategy steps --eval_steps 5 --save_strategy steps --save_steps 10",
            "--eval_steps 5 --save_steps 10: the best evaluation may not be saved. Give both the same value (or",
        ),
        ("", "--search_trials 2 --eval_strategy no --load_best_model_at_end false", "--search_trials trains anew and"),
        ("learnig_rate: 1", "", "recipe.yaml. Did you mean learning_rate"),
        ("learning-rate: 1", "", "Unknown option 'learning-rate' in "),
        ("dropout: 0.1\ndropout: 0.2", "", "recipe.yaml gives dropout more than once; keep one."),
        ("dropout: much", "", "Argument --dropout: invalid float value: 'much'"),
        ("dropout: [", "", "is not YAML"),
    ],
)
def test_a_wrong_option_is_an_error(recipe, text, argv, message):
    with pytest.raises(ValueError) as error:
        parse_arguments([recipe(text), *argv.split()])
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["base", "base.yaml", "recipes/base", "recipes/base.yaml", "./recipes/base.yaml"])
def test_a_recipe_is_found_by_its_name_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe(name).samefile(Path(__file__).parents[2] / "recipes" / "base.yaml")
    assert parse_arguments([name, "--use_cpu", "--bf16", "false"])[0].text_model == "FacebookAI/xlm-roberta-base"
    (tmp_path / "recipes").mkdir()
    for path in (tmp_path / "base", tmp_path / "base.yaml", tmp_path / "recipes/base", tmp_path / "recipes/base.yaml"):
        path.write_text("alignment: clip\n")
    assert parse_arguments([name, "--use_cpu"])[0].alignment == "clip"  # one's own file comes first


def test_the_text_of_a_recipe_repeats_the_run(recipe, tmp_path):
    argv = ["--alignment", "clip", "--max_train_samples", "7", "--num_train_epochs", "2", "--do_predict", "false"]
    first = parse_arguments([recipe("save_total_limit: null\nseed: 3\n"), *argv])
    text = recipe_text(*first)
    values = yaml.safe_load(text)
    assert values["save_total_limit"] is None
    assert values["alignment"] == "clip" and "dropout" not in values and "logging_steps" not in values
    (tmp_path / "again.yaml").write_text(text)
    again = parse_arguments([str(tmp_path / "again.yaml")])
    assert recipe_text(*again) == text
    assert again[:2] == first[:2] == (again[0], DataArguments(max_train_samples=7))


def test_none_takes_back_a_number_of_the_recipe(recipe):
    path = recipe("early_stopping_patience: 3\nalignment_temperature: 0.5\neval_strategy: no\n")
    options = ["--early_stopping_patience", "none", "--load_best_model_at_end", "false"]
    model, _, training = parse_arguments([path, "--alignment_temperature=None", *options])
    assert training.early_stopping_patience is None and model.alignment_temperature is None
    assert training.eval_strategy == "no"  # a boolean, to YAML
    with pytest.raises(ValueError, match="invalid int value: 'some'"):
        parse_arguments([path, "--early_stopping_patience", "some"])


def test_where_none_is_a_value_it_stays_one(recipe):
    text = "".join(f"{name}: none\n" for name in ("collaboration", "image_feature_store", "report_to"))
    model, data, training = parse_arguments([recipe(text), "--alignment", "none", "--freeze_text_model", "none"])
    assert (model.alignment, model.collaboration, model.freeze_text_model) == ("none", "none", "none")
    assert data.image_feature_store == "none" and training.report_to == []  # to the plain class: nowhere


@pytest.mark.parametrize(("metric", "more"), [("f1", True), ("eval_loss", False)])
def test_less_of_a_loss_is_better_and_a_score_of_dev_is_called_as_the_evaluation_calls_it(metric, more, recipe):
    training = parse_arguments([recipe(f"metric_for_best_model: {metric}\n")])[2]
    assert training.greater_is_better is more
    assert training.metric_for_best_model == ("eval_f1" if more else "eval_loss")


@pytest.mark.parametrize(
    ("bf16", "flag", "slow"), [("true", "avx2", True), ("true", "bf16", False), ("false", "avx2", False)]
)
def test_bfloat16_is_slow_where_the_processor_has_no_instructions_for_it(recipe, monkeypatch, bf16, flag, slow):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {flag: True})
    assert is_slow_in_bfloat16(parse_arguments([recipe(f"bf16: {bf16}\n")])[2]) is slow
