"""Nothing from outside is run: no pickle, no YAML that makes objects, no code as text, no shell."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [
    path for package in ("actors", "benchmarks", "jobs", "model", "pipeline") for path in (ROOT / package).rglob("*.py")
]
RUNS_CODE = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
TO_ITS_OWN_CHILDREN = {"pipeline/evaluation.py"}
"""Pickles what it hands to processes it starts itself, as multiprocessing does anyway."""


def dangers(source: str) -> list[str]:
    """What in a program could run what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        owner, _, method = name.rpartition(".")
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        is_dangerous = (
            owner.split(".")[-1] in RUNS_CODE and method in ("load", "loads", "open", "Unpickler"),
            name == "torch.load" and options.get("weights_only") != "True",
            name in ("np.load", "numpy.load") and options.get("allow_pickle", "False") != "False",
            name == "yaml.load" and "_Loader" not in ast.unparse(node),
            name in ("eval", "exec", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load"),
            options.get("shell") == "True" or options.get("trust_remote_code", "False") != "False",
        )
        if any(is_dangerous):
            found.append(name)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_is_run(path):
    if str(path.relative_to(ROOT)) not in TO_ITS_OWN_CHILDREN:
        assert dangers(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        *(
            "pickle.loads(data)",
            "ray.cloudpickle.load(file)",
            "torch.load(path)",
            "torch.load(path, weights_only=False)",
        ),
        *("np.load(path, allow_pickle=True)", "yaml.load(text, yaml.Loader)", "eval(text)", "os.system(text)"),
        *("subprocess.run(text, shell=True)", "AutoModel.from_pretrained(path, trust_remote_code=True)"),
    ],
)
def test_what_would_be_found(line):
    assert len(dangers(line)) == 1


def test_what_is_fine():
    lines = ["torch.load(path, weights_only=True)", "np.load(path)", "yaml.safe_load(text)", "yaml.load(text, _Loader)"]
    assert dangers("\n".join(lines)) == []
