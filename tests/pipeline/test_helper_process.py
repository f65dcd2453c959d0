import subprocess
import sys

import psutil
import pytest

_POOL = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pipeline.helper_process import begin_to_help
if __name__ == "__main__":
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), begin_to_help) as pool:
        print(sum(pool.map(abs, [-1, -2])), flush=True)
        input()
"""


@pytest.mark.timeout(120)
def test_the_processes_of_a_pool_end_with_its_owner(tmp_path):
    (tmp_path / "pool.py").write_text(_POOL)
    command = [sys.executable, str(tmp_path / "pool.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "3\n"
        children = psutil.Process(owner.pid).children()
        assert [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        owner.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
