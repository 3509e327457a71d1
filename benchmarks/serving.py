"""The endpoint under load, and where things fail, on this machine alone.

    python benchmarks/serving.py load
    python benchmarks/serving.py faults
    python benchmarks/serving.py memory

``load``: many clients at a time, each with a number of requests after each other; how many were lost, the time to an
answer, and pictures a second beside the bare pipeline at the largest batch, in one process for each replica, before and
after.
``faults``: a replica is killed under load, clients go away, and bad requests of every kind are sent. ``memory``: the
resident memory of the replicas over many requests. It needs the extras [serve] and [test-web], and a quiet machine.
"""

import argparse
import concurrent.futures
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import httpx
import psutil

from mindone_vq.serving.ray_environment import ENVIRONMENT

HOST, PORT = "127.0.0.1", 8013
ADDRESS = f"http://{HOST}:{PORT}"
PROMPT = "a large red circle on a white background"
BARE = """
import sys, time
from mindone_vq import VQDiffusionPipeline
from mindone_vq.demo import SHAPES_MODEL
pipe = VQDiffusionPipeline.from_pretrained(SHAPES_MODEL)
pipe.set_progress_bar_config(disable=True)
batch, steps, calls = map(int, sys.argv[1:])
draw = lambda: pipe([{prompt!r}] * batch, num_inference_steps=steps, generator=list(range(batch)))
draw()
input()
began = time.perf_counter()
for _ in range(calls):
    draw()
print(batch * calls / (time.perf_counter() - began))
"""


def serve(options: argparse.Namespace) -> Any:
    """Starts the endpoint; returns the module of Ray Serve, to end it."""
    import ray
    from ray import serve

    from mindone_vq.serving.deployment import make_application
    from mindone_vq.serving.settings import ServingSettings

    ray.init(num_cpus=options.replicas, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": HOST, "port": PORT})
    settings = ServingSettings(
        samplers=("ancestral",),
        steps=options.steps,
        replicas=options.replicas,
        most_replicas=options.replicas,
        timeout=600,
        most_waiting=1000,
    )
    serve.run(make_application(settings), name="mindone_vq")
    return serve


def ask(client: httpx.Client, seed: int, **fields: Any) -> tuple[int, float]:
    """The status of an answer (0: none), and the seconds that it took."""
    began = time.perf_counter()
    body = {"prompt": PROMPT, "seed": seed, **fields}
    try:
        status = client.post(f"{ADDRESS}/v1/images/generations", json=body).status_code
    except httpx.HTTPError:
        status = 0
    return status, time.perf_counter() - began


def many(options: argparse.Namespace) -> tuple[list[tuple[int, float]], float]:
    """The answers of all clients, and the seconds in all."""
    limits = httpx.Limits(max_connections=options.clients, max_keepalive_connections=options.clients)

    def one_client(number: int) -> list[tuple[int, float]]:
        return [ask(client, number * options.requests + i) for i in range(options.requests)]

    with (
        httpx.Client(timeout=600, limits=limits) as client,
        concurrent.futures.ThreadPoolExecutor(options.clients) as pool,
    ):
        began = time.perf_counter()
        answers = [each for answers in pool.map(one_client, range(options.clients)) for each in answers]
        return answers, time.perf_counter() - began


def report(answers: list[tuple[int, float]], seconds: float) -> float:
    """Prints what became of the requests; pictures a second."""
    statuses = [status for status, _ in answers]
    counts = {status: statuses.count(status) for status in sorted(set(statuses))}
    times = sorted(taken for status, taken in answers if status == 200)
    p50, p95 = (statistics.quantiles(times, n=100)[i - 1] for i in (50, 95))
    rate = len(times) / seconds
    print(f"{len(answers)} requests in {seconds:.1f} s; answers by status: {counts}")
    print(f"p50 {p50:.2f} s, p95 {p95:.2f} s; {rate:.2f} pictures a second", flush=True)
    return rate


def load(options: argparse.Namespace) -> None:
    import ray

    before = bare_rate(options)
    running = serve(options)
    rate = report(*many(options))
    running.shutdown()
    ray.shutdown()
    after = bare_rate(options)
    print(
        f"the bare pipeline in {options.replicas} processes, batch 16: {before:.2f} a second before, {after:.2f} after"
    )
    print(f"ratio {2 * rate / (before + after):.2f}")


def bare_rate(options: argparse.Namespace) -> float:
    """Pictures a second of as many processes as there are replicas, each with the pipeline alone."""
    command = [sys.executable, "-c", BARE.format(prompt=PROMPT), "16", str(options.steps), str(options.calls)]
    environment = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": "1"}  # as Ray gives a replica of one CPU
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(options.replicas)
    ]
    time.sleep(options.start)  # until all have compiled
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0].split()[-1]) for process in processes)


def replicas() -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [""])[0].startswith("ray::ServeReplica:mindone_vq:Replica")
    ]


def faults(options: argparse.Namespace) -> None:
    running = serve(options)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answers = pool.submit(many, options)
        time.sleep(options.kill_after)
        replicas()[0].kill()
        print("A replica was killed under load:")
        report(*answers.result())
    began = time.monotonic()
    while len(replicas()) < options.replicas and time.monotonic() < began + 120:
        time.sleep(0.5)
    print(f"{len(replicas())} replicas again.")
    with httpx.Client(timeout=0.3) as impatient:
        gone = [ask(impatient, i, n=10)[0] for i in range(20)]
    with httpx.Client(timeout=600) as client:
        status, seconds = ask(client, 0)
        print(f"20 clients that went ({gone.count(0)} without an answer); the next waits {seconds:.2f} s ({status}).")
        for name, content in {
            "a prompt of 10 MB": b'{"prompt": "' + b"a" * 10_000_000 + b'"}',
            "10^6 pictures": b'{"prompt": "a", "n": 1000000}',
            "broken JSON": b'{"prompt": ',
        }.items():
            answer = client.post(f"{ADDRESS}/v1/images/generations", content=content)
            print(f"{name}: {answer.status_code} {answer.json()['error']['message'][:80]}")
        print(f"afterwards: {ask(client, 0)[0]}")
    running.shutdown()


def memory(options: argparse.Namespace) -> None:
    running = serve(options)
    options.requests = max(1, 100 // options.clients)
    for done in range(0, options.total + 1, options.clients * options.requests):
        if done:
            many(options)
        sizes = ", ".join(f"{process.memory_info().rss / 1e9:.3f}" for process in replicas())
        print(f"after {done} requests: {sizes} GB", flush=True)
    running.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["load", "faults", "memory"])
    parser.add_argument("--replicas", type=int, default=2, help="[%(default)s]")
    parser.add_argument("--clients", type=int, default=50, help="at a time [%(default)s]")
    parser.add_argument("--requests", type=int, default=20, help="of each client [%(default)s]")
    parser.add_argument("--steps", type=int, default=16, help="of each request [%(default)s]")
    parser.add_argument("--calls", type=int, default=10, help="of the bare pipeline [%(default)s]")
    parser.add_argument(
        "--start", type=float, default=40, help="seconds the bare pipelines get to compile [%(default)s]"
    )
    parser.add_argument("--kill-after", type=float, default=10, help="seconds of load [%(default)s]")
    parser.add_argument("--total", type=int, default=1000, help="requests of memory [%(default)s]")
    options = parser.parse_args()
    {"load": load, "faults": faults, "memory": memory}[options.what](options)


if __name__ == "__main__":
    main()
