# SPDX-License-Identifier: Apache-2.0
"""axial plan: what a run takes on devices that are not there; what does not fit, and what does not exist."""

import json
import pathlib
import resource
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = "name: tiny\nmemory: {memory}\nexpandable_segments: {expandable}\n"


@pytest.fixture
def plan(axial_program, test_recipe, tmp_path):
    """Run the command on the test recipe (or another) and return what it says; the plan as JSON is beside."""

    def run(*arguments, recipe=None, code=0):
        file = tmp_path / "plan.json"
        file.unlink(missing_ok=True)
        done = subprocess.run(
            [str(axial_program), "plan", str(recipe or test_recipe), "--json", str(file), *map(str, arguments)],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done, json.loads(file.read_text()) if file.exists() else None

    return run


# Enough rows that a setting changes what torch's allocator reserves, in pages of megabytes.
MANY_ROWS = ["--set", "train.batch=64", "--set", "train.micro_batch=64"]


def device(tmp_path, memory: int, expandable: bool = False) -> pathlib.Path:
    path = tmp_path / f"device_{memory}.yaml"
    path.write_text(TINY.format(memory=memory, expandable=str(expandable).lower()))
    return path


def test_parts_add_up(plan):
    done, made = plan("--device", "a100-40gb", "--world", 4, "--set", "parallel.zero=3")
    (role,) = made["roles"]
    assert role["ranks"] == [0, 1, 2, 3]
    assert sum(role["at_peak"].values()) == role["peak_bytes"]
    assert sum(alive["bytes"] for alive in role["alive"]) == role["peak_bytes"]
    assert any(alive["block"].startswith("layer.") and alive["op"] for alive in role["alive"])
    highest = max(role["timeline"], key=sum)
    assert dict(zip(made["uses"], highest, strict=True)) == role["at_peak"]
    assert role["needed_bytes"] == role["reserved_bytes"] + role["outside_bytes"]
    assert role["reserved_bytes"] >= role["peak_bytes"] > role["resident_bytes"] > 0
    assert made["fits"] and made["spare_bytes"] == made["device"]["memory"] - role["needed_bytes"]
    assert {t["op"] for t in role["traffic"]} >= {"all_gather", "reduce_scatter", "control"}
    for word in ("parameters", "fragmentation", "needed", "0-3", "fits:"):
        assert word in done.stdout


def test_a_picture_shows_every_use(plan, tmp_path):
    plan("--picture", tmp_path / "plan.svg", "--set", "train.recompute_group=1")
    picture = (tmp_path / "plan.svg").read_text()
    assert picture.startswith("<svg") and picture.count("<path") > 8
    for use in ("parameters", "optimizer", "activations", "gradients"):
        assert use in picture


def test_stages_of_a_pipeline_have_roles_of_their_own(plan):
    _, made = plan("--world", 2, "--set", "parallel.pipe=2")
    assert [role["ranks"] for role in made["roles"]] == [[0], [1]]
    sent = [{t["op"]: t["bytes"] for t in role["traffic"] if t["axes"] == "pipe"} for role in made["roles"]]
    assert sent[0]["send"] == sent[1]["send"] > 0  # activations there, their gradients back


def test_what_does_not_fit_says_by_how_much_and_what_to_change(plan, tmp_path):
    _, made = plan()
    needed = made["roles"][0]["needed_bytes"]
    done, tight = plan("--device", device(tmp_path, 1 << 20), *MANY_ROWS, code=3)
    assert not tight["fits"] and tight["spare_bytes"] < 0
    assert "does not fit:" in done.stdout and "missing on rank 0" in done.stdout
    assert needed > 1 << 20
    advice = tight["advice"]
    alone = [a for a in advice if " " not in a["change"]]
    assert {a["change"] for a in alone} >= {"train.recompute_group=1", "train.micro_batch=1"}
    assert [a["saved_bytes"] for a in alone] == sorted((a["saved_bytes"] for a in alone), reverse=True)
    assert "one change at a time" in done.stdout and "none of these is enough" in done.stdout


def test_advice_is_what_the_plan_with_it_says(plan, tmp_path):
    _, made = plan("--device", device(tmp_path, 1 << 30, True), *MANY_ROWS)
    enough = made["roles"][0]["needed_bytes"] - 1
    small = device(tmp_path, enough, True)
    done, tight = plan("--device", small, *MANY_ROWS, code=3)
    best = tight["advice"][0]
    assert best["fits"] and "fits," in done.stdout
    _, changed = plan("--device", small, *MANY_ROWS, "--set", best["change"])
    assert changed["spare_bytes"] == best["spare_bytes"]
    assert tight["spare_bytes"] + best["saved_bytes"] == best["spare_bytes"]


def test_what_leaves_the_device_is_memory_of_the_host_which_has_an_end(plan, tmp_path):
    resident = plan()[1]["roles"][0]
    offload = ["--set", "train.offload_optimizer=host"]
    done, made = plan(*offload)
    (role,) = made["roles"]
    moments = resident["at_peak"]["optimizer"]  # fp32: two moments a parameter
    assert moments > 0 and role["at_peak"]["optimizer"] == 0 and resident["host_bytes"] == 0
    assert role["file_bytes"] == 0 and moments <= role["host_bytes"] < moments + 4096 * 200  # whole pages
    assert "memory of the host" in done.stdout
    small = device(tmp_path, 1 << 33)
    small.write_text(small.read_text() + f"host: {role['host_bytes'] - 1}\n")
    done, made = plan("--device", small, *offload, code=3)
    assert not made["fits"] and made["spare_bytes"] == -1
    assert "1 B of the host's" in done.stdout
    done, made = plan("--set", "train.offload_optimizer=file", "--set", f"train.offload_folder={tmp_path}")
    assert made["roles"][0]["file_bytes"] >= moments


def test_parameters_leave_the_device_too(plan):
    states = ["--set", "train.offload_optimizer=host", "--set", "parallel.zero=3"]
    kept = plan(*states)[1]["roles"][0]
    done, made = plan(*states, "--set", "train.offload_parameters=host")
    (role,) = made["roles"]
    parameters = 4 * made["parameters"]
    assert kept["at_peak"]["parameters"] == parameters and role["at_peak"]["parameters"] == 0
    assert role["peak_bytes"] < kept["peak_bytes"] and role["resident_bytes"] < kept["resident_bytes"]
    assert role["host_bytes"] >= kept["host_bytes"] + 2 * parameters  # and gradients
    assert role["host_written_bytes"] > 0 and role["host_read_bytes"] >= parameters
    assert "copied to it in a step" in done.stdout
    done, _ = plan("--set", "train.offload_parameters=host", code=1)
    assert "expected none without parallel.zero 3" in done.stderr


def test_operations_and_time_are_told(plan):
    done, made = plan("--device", "h200")
    tokens, products = 4 * 128, 2 * (4 * 32 * 32 + 2 * 32 * 64) + 69 * 32
    assert made["flops"]["products"] == 6 * tokens * products
    assert made["flops"]["attention"] == 7 * 2 * 2 * 32 * 4 * (128 * 129 // 2)
    assert made["flops"]["attention_square"] == 7 * 2 * 2 * 32 * 4 * 128 * 128
    assert made["recomputed_flops"]["attention"] * 7 == made["flops"]["attention"]
    estimate = made["estimate"]
    assert 0 < estimate["shortest_s"] <= estimate["longest_s"]
    assert estimate["messages_s"] == 0 and estimate["idle_share"] == 0
    assert estimate["products_s"] == pytest.approx(
        (made["flops"]["products"] + made["flops"]["attention"]) / (0.5 * made["device"]["flops_32bit"])
    )
    assert "estimate: a step takes" in done.stdout and "assumed: 50 % of h200's" in done.stdout
    _, slow = plan("--device", "h200", "--efficiency", 0.25)
    assert slow["estimate"]["products_s"] == pytest.approx(2 * estimate["products_s"])


def test_a_device_without_rates_gives_no_time(plan, tmp_path):
    done, made = plan("--device", device(tmp_path, 64 << 20))
    assert made["estimate"] is None and "no estimate of time" in done.stdout


def test_a_sweep_lists_what_fits(plan, tmp_path):
    small = tmp_path / "small.yaml"
    small.write_text(
        "name: small\nmemory: 2200000\nexpandable_segments: true\nflops_32bit: 1e12\nbandwidth: 1e11\n"
        "link: 1e10\nnetwork: 1e9\n"
    )
    done, made = plan("--device", small, "--world", 4, "--sweep", "--sweep-limit", 40)
    assert made["meshes"] == 15  # 4 = 2 * 2: both on one of five axes, or on two of them
    assert made["planned"] <= 40
    assert sum(r["count"] for r in made["refused"]) + made["fitting"] + made["left_out"] == made["meshes"]
    times = [b["estimate"]["longest_s"] for b in made["best"]]
    assert times and times == sorted(times)
    best = made["best"][0]
    overrides = [word for setting in best["settings"] for word in ("--set", setting)]
    _, again = plan("--device", small, "--world", 4, *overrides)
    assert again["spare_bytes"] == best["spare_bytes"] and again["estimate"] == best["estimate"]
    assert " ".join(overrides) in done.stdout


def test_a_sweep_without_any_that_fits_says_why(plan, tmp_path):
    done, made = plan("--device", device(tmp_path, 1 << 16), "--world", 2, "--sweep", code=3)
    assert not made["best"] and made["planned"] == 0
    assert "weights, gradients and moments alone do not fit; the nearest lacks" in done.stdout


@pytest.mark.parametrize("expandable", [False, True])
def test_the_longest_rows_fit_and_longer_ones_do_not(plan, tmp_path, expandable):
    small = device(tmp_path, 64 << 20, expandable)
    done, made = plan("--device", small, "--max-sequence", "--unit", 64)
    longest = made["row_length"]
    assert longest % 64 == 0 and f"longest rows: {longest:,} tokens" in done.stdout

    def with_length(length):
        return ["--set", f"data.sequence_length={length}", "--set", f"model.max_positions={length}"]

    plan("--device", small, *with_length(longest))
    plan("--device", small, *with_length(longest + 64), code=3)


def test_the_largest_batch_is_of_every_data_rank(plan, tmp_path):
    small = device(tmp_path, 64 << 20)
    _, made = plan("--device", small, "--max-batch", "--world", 2)
    assert made["batch"] == 2 * made["micro_batch"] > 2
    more = made["micro_batch"] + 1
    plan(
        "--device", small, "--world", 2, "--set", f"train.micro_batch={more}",
        "--set", f"train.batch={2 * more}", code=3,
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments,said",
    [
        (["--device", "a100-40g"], "did you mean 'a100-40gb'?"),
        (["--device", "nowhere.yaml"], "nowhere.yaml"),
        (
            ["--world", "3", "--set", "parallel.tensor=2"],
            "expected a divisor of 3 ranks, got 2; nearest: 1 and 3",
        ),
        (["--world", "4", "--set", "parallel.ring=8"], "expected a divisor of 4 ranks, got 8; nearest: 4"),
        (["--world", "0"], "--world"),
        (["--set", "model.hiden_size=8"], "did you mean 'hidden_size'?"),
        (["--max-sequence", "--max-batch"], "excludes"),
        (["--max-sequence", "--sweep"], "excludes"),
        (["--sweep", "--sweep-limit", "0"], "--sweep-limit"),
        (["--efficiency", "1.5"], "--efficiency"),
        (["--for", "generate"], "--for"),
        (["--for", "score", "--sweep"], "excludes"),
        (["--for", "score", "--window", "1"], "window; expected at least 2 tokens, got 1"),
    ],
)
def test_what_cannot_be_planned_is_named(axial_program, test_recipe, arguments, said):
    done = subprocess.run(
        [str(axial_program), "plan", str(test_recipe), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode not in (0, 3)
    assert said in done.stderr, done.stderr


def test_devices_of_a_file_are_read_strictly(axial_program, test_recipe, tmp_path):
    for text, said in [
        ("name: x\n", "memory"),
        ("memory: -1\n", "expected bytes"),
        ("memory: 100\nmemoryy: 3\n", "did you mean 'memory'?"),
    ]:
        path = tmp_path / "device.yaml"
        path.write_text(text)
        done = subprocess.run(
            [str(axial_program), "plan", str(test_recipe), "--device", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode not in (0, 3)
        assert said in done.stderr, done.stderr
        assert "device.yaml" in done.stderr, done.stderr


@pytest.mark.parametrize("work,head", [("embed", 0), ("score", 69 * 32)])
def test_inference_is_planned_as_it_runs(plan, work, head):
    done, made = plan("--for", work, "--window", 64, "--batch-tokens", 256)
    assert (made["work"], made["batch"], made["row_length"]) == (work, 4, 64)
    assert "4 windows of 64 tokens a batch" in done.stdout
    (role,) = made["roles"]
    assert role["at_peak"]["gradients"] == role["at_peak"]["optimizer"] == 0
    layers = 2 * (4 * 32 * 32 + 2 * 32 * 64)
    assert made["flops"]["products"] == 2 * 256 * (layers + head)
    assert made["flops"]["attention"] == 2 * 2 * 2 * 32 * 4 * (64 * 65 // 2)
    assert made["recomputed_flops"]["products"] == 0
    _, trained = plan("--set", "data.sequence_length=64")
    assert made["roles"][0]["peak_bytes"] < trained["roles"][0]["peak_bytes"]


@pytest.mark.parametrize("work", ["embed", "score"])
def test_inference_is_planned_on_meshes(plan, work):
    _, one = plan("--for", work, "--batch-tokens", 512)
    for axis in ("data", "pipe", "ring", "ulysses", "tensor"):
        _, made = plan("--for", work, "--batch-tokens", 512, "--world", 2, "--set", f"parallel.{axis}=2")
        ranks = sorted(rank for role in made["roles"] for rank in role["ranks"])
        assert ranks == [0, 1] and made["batch"] == (8 if axis == "data" else 4)
        assert any(t["bytes"] > 0 for t in made["roles"][0]["traffic"])
        # The layers' products are cut; a head of so few tokens is not cut over tensor, and runs on both.
        head = 2 * 69 * 32 * 512 if work == "score" else 0
        times = 2 if axis == "data" else 1
        more = head if axis == "tensor" else 0
        assert made["flops"]["products"] == times * one["flops"]["products"] + more


@pytest.mark.parametrize(
    "name,world,on,parameters",
    [
        ("genome_25b", 64, "a100-40gb", 25e9),
        ("genome_33b", 64, "a100-40gb", 31e9),
        ("genome_8b_h200", 1, "h200", 7.7e9),
        ("genome_10b_one_device", 1, "a100-40gb", 10e9),
    ],
)
def test_the_large_recipes_fit_and_take_little_memory_to_plan(plan, name, world, on, parameters):
    _, made = plan("--world", world, "--device", on, recipe=ROOT / "recipes" / "long" / f"{name}.yaml")
    assert made["parameters"] > parameters
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 << 20  # KiB


def test_training_says_what_a_step_takes(axial_program, test_recipe, tmp_path):
    genes = tmp_path / "genes.fasta"
    genes.write_text("".join(f">g{i}\n{'ATGGCCAAA' * (20 + i)}TAA\n" for i in range(40)))
    done = subprocess.run(
        [
            str(axial_program), "train", str(test_recipe), "--data", str(genes), "--out", str(tmp_path / "run"),
            "--set", "train.steps=2", "--set", "train.schedule.warmup_steps=1",
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "a step takes at most " in done.stdout and "of tensors" in done.stdout
