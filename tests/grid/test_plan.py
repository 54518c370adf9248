import pytest

from sslbench.errors import UserError
from sslbench.grid.config import read
from sslbench.grid.plan import check, plan
from tests.grid.test_config import GOOD


@pytest.fixture
def planned(tmp_path):
    def make(text):
        path = tmp_path / "grid.toml"
        path.write_text(text)
        return plan(read(path), path)

    return make


def test_keys_do_not_change_between_calls_and_differ_between_cells(planned):
    first, second = planned(GOOD), planned(GOOD)
    keys = [cell.key for work in first for cell in work.cells]
    assert keys == [cell.key for work in second for cell in work.cells]
    assert len(set(keys)) == len(keys) == 2
    assert first[0].source.key != first[1].source.key  # seeds


def test_every_list_is_an_axis(planned):
    text = GOOD.replace('["untrained"]', '["simclr", "pixels"]').replace("[1]", "[1, 2]")
    text = text.replace('datasets = ["digits"]\nencoders', 'datasets = ["digits"]\nencoders', 1)
    text = text.replace("epochs = [1, 2]", "epochs = [1, 2]\ncheckpoints = [0.5]")
    work = planned(text)
    runs = [(w.source.name, w.source.epochs, w.source.seed, len(w.cells)) for w in work]
    simclr = [run for run in runs if run[0] == "simclr"]
    assert simclr == [("simclr", e, s, 2) for e in (1, 2) for s in (0, 1)]
    assert {run[3] for run in runs if run[0] == "pixels"} == {1}  # nothing along a curve


def test_a_setting_changes_the_key_of_its_method_only(planned):
    text = GOOD.replace('["untrained"]', '["simclr", "untrained"]')
    before = {w.source.name: w.source.key for w in planned(text)}
    after = {w.source.name: w.source.key for w in planned(text.replace("0.2", "0.3"))}
    assert before["simclr"] != after["simclr"]
    assert before["untrained"] == after["untrained"]


@pytest.fixture
def both(tmp_path):
    """A grid of three tasks on digits, which have labels, and on documents, which have none."""
    (tmp_path / "texts.txt").write_text("a document\n\n" * 30)
    datasets = f'["digits", "text:{tmp_path}/texts.txt"]'
    tasks = '["knn", "representation", "segmentation"]'
    return GOOD.replace('["knn"]\ndatasets = ["digits"]', f"{tasks}\ndatasets = {datasets}")


def of_tasks(work):
    return [(cell.protocol, cell.dataset.partition(":")[0]) for cell in work[0].cells]


def test_a_task_is_run_on_the_datasets_that_have_its_targets(planned, both):
    """If there is none, on all: a record each says that it does not apply."""
    assert of_tasks(planned(both)) == [
        ("knn", "digits"),
        ("representation", "digits"),
        ("representation", "text"),
        ("segmentation", "digits"),
        ("segmentation", "text"),
    ]


def test_a_task_can_be_run_on_some_of_the_datasets(planned, both):
    own = '[override.representation]\ndatasets = ["digits"]\n'
    before, after = (of_tasks(planned(given)) for given in (both, both + own))
    assert [cell for cell in before if cell != ("representation", "text")] == after
    with pytest.raises(
        UserError, match=r"line 19: datasets = \['mnist'\]; some of .*: digits, text:"
    ):
        planned(both + own.replace("digits", "mnist"))


def test_a_variant_is_a_row_of_its_own(planned):
    text = GOOD.replace('["untrained"]', '["simclr"]')
    text += '[override.simclr-hot]\nof = "simclr"\ntemperature = 1.0\n'
    text += "recipe = { lr = 0.5, batch_size = 256 }\n"
    rows = {w.source.name: w.source for w in planned(text)}
    assert rows["simclr"].settings["temperature"] == 0.2
    assert rows["simclr-hot"].settings["temperature"] == 1.0
    assert rows["simclr-hot"].recipe["lr"] == 0.5
    assert rows["simclr-hot"].method == "simclr"


def test_a_variant_keeps_what_it_does_not_change(planned):
    text = GOOD.replace('["untrained"]', '["simclr"]').replace(
        "temperature = 0.2",
        'augmentation.blur_p = 0.0\nrecipe = { optimizer = "sgd", lr = 0.1, batch_size = 64 }',
    )
    text += '[override.hot]\nof = "simclr"\nrecipe = { lr = 0.5 }\naugmentation = { hue = 0.0 }\n'
    hot = next(w.source for w in planned(text) if w.source.name == "hot")
    assert (hot.recipe["optimizer"], hot.recipe["lr"]) == ("sgd", 0.5)
    assert hot.recipe["batch_size"] == 64
    assert (hot.settings["augmentation"]["blur_p"], hot.settings["augmentation"]["hue"]) == (0, 0)


def test_the_recipe_on_record_is_the_one_in_force(planned):
    """A batch larger than the data becomes the data's size, and the learning rate scales along."""
    run = planned(GOOD.replace('["untrained"]', '["simclr"]'))[0].source
    assert run.recipe["batch_size"] == 1258
    assert run.recipe["lr"] == pytest.approx(4.8 * 1258 / 4096)


def test_a_batch_size_scales_the_learning_rate_unless_both_are_given(planned):
    text = GOOD.replace('["untrained"]', '["simclr"]')

    def lr(settings):
        return planned(text.replace("temperature = 0.2", settings))[0].source.recipe["lr"]

    assert lr("recipe = { batch_size = 256 }") == pytest.approx(4.8 * 256 / 4096)
    assert lr("recipe = { batch_size = 256, lr = 0.7 }") == 0.7


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"untrained"',
            '"untraind"',
            "line 5: unknown method 'untraind'; did you mean 'untrained'",
        ),
        ('tasks = ["knn"]', 'tasks = ["kn"]', "line 11: unknown task 'kn'; did you mean 'knn'"),
        ("[override.simclr]", "[override.simcl]", "line 14: 'simcl' is neither a method nor"),
        ('["untrained"]', '["simclr", "x"]', "unknown method 'x'"),
    ],
)
def test_a_wrong_name_gets_its_line(planned, old, new, message):
    with pytest.raises(UserError, match=message):
        planned(GOOD.replace(old, new))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("temperture = 1.0", "line 14: .*no setting 'temperture'; did you mean 'temperature'"),
        ('temperature = "hot"', "temperature = 'hot': expected float, found str"),
        ("recipe = { lrr = 1 }", "no setting 'lrr'; did you mean 'lr'"),
        ('recipe = { optimizer = "adam" }', "optimizer 'adam'; did you mean 'adamw'"),
        ('recipe = { schedule = "step" }', "schedule 'step'; allowed: constant, cosine, linear"),
        ("recipe = { batch_size = 0 }", "batch_size ≥ 1"),
        ("recipe = 5", "recipe = 5: expected a table"),
        ("augmentation = { blur_p = 2.0 }", "blur_p"),
        ("epochs = 0", "epochs = 0"),
    ],
)
def test_a_wrong_setting_is_refused_when_planning(planned, setting, message):
    text = GOOD.replace('["untrained"]', '["simclr"]').replace("temperature = 0.2", setting)
    with pytest.raises(UserError, match=message):
        planned(text)


def test_an_unknown_dataset_is_refused(planned):
    with pytest.raises(UserError, match="did you mean 'digits'"):
        planned(GOOD.replace('"digits"', '"digit"', 1))


def test_a_vit_method_on_a_resnet_is_known_not_to_apply_before_it_is_queued(planned):
    work = planned(GOOD.replace('["untrained"]', '["mae", "untrained"]'))
    reasons = check(work)
    mae = [w.source for w in work if w.source.name == "mae"]
    assert {run.key for run in mae} == set(reasons)
    assert all("resnet18" in reason for reason in reasons.values())


def test_an_unknown_encoder_is_refused_before_it_is_queued(planned):
    work = planned(GOOD.replace('"resnet18"', '"resnet81"'))
    with pytest.raises(UserError, match="unknown encoder 'resnet81'; did you mean"):
        check(work)


def test_an_encoder_builds_the_same_weights_every_time(planned):
    from sslbench.checkpoint import weights_hash

    run = planned(GOOD)[0].source
    assert weights_hash(run.build().encoder) == weights_hash(run.build().encoder)
    other = planned(GOOD)[1].source
    assert weights_hash(run.build().encoder) != weights_hash(other.build().encoder)
