"""The explorer: what it computes, whom its server answers, and the page in a real browser."""

from __future__ import annotations

import argparse
import errno
import http.client
import importlib.util
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import browser
import numpy as np
import pytest

import ministn
import ministn.functional as F
from ministn import Tensor, data, explorer, no_grad, records
from ministn.explorer.look import Explorer, RequestError, load_digits
from ministn.explorer.network import read_run
from ministn.explorer.server import FILES, LARGEST_BODY, Handler, Server
from ministn.nn import transforms

EXAMPLES = Path(__file__).parents[1] / "examples"
# Of each transform, parameters that move every point off the pixels, where the slope of bilinear sampling jumps.
MOVED = {
    "affine": [0.9, -0.31, 0.07, 0.22, 1.13, -0.05],
    "projective": [0.9, -0.31, 0.07, 0.22, 1.13, -0.05, 0.11, -0.17],
    "tps": (transforms.ThinPlateSpline().identity + np.random.default_rng(0).uniform(-0.2, 0.2, 32)).tolist(),
}


@pytest.fixture(scope="module")
def digits():
    """Drawn ones, which every machine has."""
    images = data.strokes.draw(np.repeat(np.arange(10), 8), np.random.default_rng(0))
    return images.reshape(10, 8, 28, 28), "drawn"


@pytest.fixture(scope="module")
def by_hand(digits):
    return Explorer(digits)


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run_of_train_mnist(tmp_path_factory):
    """A folder as examples/train_mnist.py leaves it, after an epoch on few drawn digits."""
    folder, small = tmp_path_factory.mktemp("train_mnist") / "run", data.strokes.load(train_size=300, test_size=60)
    with pytest.MonkeyPatch.context() as patch:
        train_mnist = example("train_mnist")
        patch.setattr(data, "load", lambda name, data_dir=None: small)
        patch.setattr(train_mnist.Run, "report", lambda run: None)  # pictures
        assert train_mnist.main(["--epochs", "1", "--lr", "0.01", "--out", str(folder)]) == 0
    return folder, small


@pytest.fixture(scope="module")
def run_of_table1(tmp_path_factory):
    """A folder as examples/reproduce_table1.py leaves it; on RTS, where canvas, output and digit differ in size."""
    table1, out = example("reproduce_table1"), tmp_path_factory.mktemp("table1")
    recipe = table1.recipe_for("modern", "ST-FCN", "RTS", table1.QUICK | {"epochs": 1})
    run = table1.Run("ST-FCN", "tps", "RTS", 1, "modern", recipe, digits="strokes", quick=True)
    folder = out / run.name
    folder.mkdir()
    table1.Training(run, folder, threads=1).finish(out / "results")
    return folder


def ask(image, **changes):
    """A question of the page: an image (28, 28) with the identity, and what is asked otherwise."""
    identity = transforms.get(changes.get("transform", "affine")).identity.tolist()
    question = {"image": image.ravel().tolist(), "turn": [0], "by": "hand", "transform": "affine"}
    return question | {"parameters": identity, "pixel": [14, 14]} | changes


def pixels(picture):
    return np.array(picture["pixels"]).reshape(picture["size"], picture["size"])


# --- what it computes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["affine", "projective", "tps"])
def test_the_identity_returns_the_picture(by_hand, digits, transform):
    image = digits[0][3, 1]
    answer = by_hand.look(ask(image, transform=transform))
    assert np.array_equal(pixels(answer["output"]), image)
    rows, columns = np.divmod(np.arange(28 * 28), 28)
    # two digits are sent
    np.testing.assert_allclose(answer["grid"], np.stack([columns, rows], axis=1), rtol=0, atol=0.005)


def test_the_digit_is_turned_clockwise_before_all_else(by_hand, digits):
    image = digits[0][4, 0]
    assert np.array_equal(pixels(by_hand.look(ask(image, turn=[90]))["output"]), np.rot90(image, -1))


@pytest.mark.parametrize("transform", ["affine", "projective", "tps"])
def test_output_and_gradient_are_those_of_the_engine(by_hand, digits, transform):
    """By the NumPy equations and in float64, at a pixel on an edge."""
    image = digits[0][8, 2]
    source = Tensor(image[None, None] / 255.0, requires_grad=True)
    parameters = Tensor(np.array([MOVED[transform]]), requires_grad=True)
    kind = transforms.get(transform)
    with ministn.use_kernels("reference"):
        output = F.grid_sample(source, kind.grid(kind.theta(parameters), (1, 1, 28, 28)))
        row, column = divmod(int(np.abs(output.data - 0.5).argmin()), 28)
        output[0, 0, row, column].backward()

    answer = by_hand.look(ask(image, transform=transform, parameters=MOVED[transform], pixel=[row, column]))
    pixel = answer["pixel"]
    # to a grey level of 255
    assert np.abs(pixels(answer["output"]) - 255 * output.data[0, 0]).max() < 0.51
    assert pixel["value"] == pytest.approx(output.data[0, 0, row, column], abs=1e-5)  # float32, 28 pixels a unit
    expected = parameters.grad.data[0]
    np.testing.assert_allclose(pixel["gradient"], expected, rtol=0, atol=1e-4 * np.abs(expected).max())

    weights = {(tap["row"], tap["column"]): tap["weight"] for tap in pixel["taps"] if tap["inside"]}
    gradient = source.grad.data[0, 0]
    assert len(weights) == 4
    assert set(weights) == set(zip(*map(list, np.nonzero(gradient)), strict=True))
    for place, weight in weights.items():
        assert weight == pytest.approx(gradient[place], abs=1e-4)


def test_the_formula_that_the_page_shows(by_hand, digits):
    """Weights by hand: the point lies a quarter of a pixel right of column 12 and half a pixel below row 9."""
    image = digits[0][0, 0]
    shift = [2 * 0.25 / 28, 2 * 0.5 / 28]
    answer = by_hand.look(ask(image, parameters=[1, 0, shift[0], 0, 1, shift[1]], pixel=[9, 12]))["pixel"]
    u = image / 255
    assert answer["at"] == pytest.approx([12.25, 9.5], abs=1e-4)
    assert [(tap["row"], tap["column"]) for tap in answer["taps"]] == [(9, 12), (9, 13), (10, 12), (10, 13)]
    assert [tap["weight"] for tap in answer["taps"]] == pytest.approx([0.375, 0.125, 0.375, 0.125], abs=1e-5)
    assert [tap["value"] for tap in answer["taps"]] == pytest.approx(
        [u[9, 12], u[9, 13], u[10, 12], u[10, 13]], abs=1e-6
    )
    assert answer["value"] == pytest.approx(sum(tap["weight"] * tap["value"] for tap in answer["taps"]), abs=1e-5)
    slope_x = (u[9, 13] - u[9, 12]) / 2 + (u[10, 13] - u[10, 12]) / 2
    assert answer["slope"][0] == pytest.approx(slope_x, abs=1e-5)
    x = (2 * 12 + 1) / 28 - 1
    assert answer["target"][0] == pytest.approx(x, abs=1e-4)
    # the chain rule, as on the page; a half width is 14 pixels
    assert answer["gradient"][2] == pytest.approx(14 * slope_x, abs=1e-4)
    assert answer["gradient"][0] == pytest.approx(14 * slope_x * x, abs=1e-4)


def test_outside_there_is_nothing_and_the_horizon_is_not_drawn(by_hand, digits):
    far = by_hand.look(ask(digits[0][1, 0], parameters=[1, 0, 5, 0, 1, 0]))
    assert not pixels(far["output"]).any()
    assert [(tap["inside"], tap["value"]) for tap in far["pixel"]["taps"]] == [(False, 0)] * 4
    assert sum(tap["weight"] for tap in far["pixel"]["taps"]) == pytest.approx(1, abs=1e-5)
    assert far["pixel"]["gradient"] == [0] * 6
    horizon = by_hand.look(ask(digits[0][1, 0], transform="projective", parameters=[1, 0, 0, 0, 1, 0, 0, 2]))
    points = [point for line in horizon["lines"] for point in line]
    assert None in points
    assert np.abs(np.array([point for point in points if point])).max() < 5 * 28
    json.dumps(horizon, allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": [0] * 783}, "image: expected a list of 784 numbers, got a list of 783"),
        ({"image": "four"}, "image: expected a list of 784 numbers, got 'four'"),
        ({"image": [256] * 784}, "image: expected numbers from 0 to 255, got 256"),
        ({"image": [float("nan")] * 784}, "image: expected numbers from 0 to 255, got nan"),
        ({"image": [True] * 784}, "image: expected numbers from 0 to 255, got True"),
        ({"turn": 30}, "turn: expected a list of 1 numbers, got 30"),
        ({"turn": [181]}, "turn: expected numbers from -180 to 180, got 181"),
        ({"parameters": [1] * 5}, "parameters: expected a list of 6 numbers, got a list of 5"),
        ({"parameters": [float("inf")] * 6}, "parameters: expected numbers from -10 to 10, got inf"),
        ({"parameters": None}, "parameters: expected a list of 6 numbers, got None"),
        ({"pixel": [0, 28]}, "pixel: expected whole numbers from 0 to 27, got 28"),
        ({"pixel": [0, 1.5]}, "pixel: expected whole numbers from 0 to 27, got 1.5"),
        ({"transform": "bend"}, "transform: expected one of 'affine', 'projective', 'tps', got 'bend'"),
        ({"transform": ["affine"]}, r"transform: expected one of 'affine', .*, got \['affine'\]"),
        ({"by": "magic"}, "by: expected one of 'hand', 'network', got 'magic'"),
        ({"by": "network"}, "by: expected 'hand', as no run was given, got 'network'"),
    ],
)
def test_what_is_no_question(by_hand, digits, changes, message):
    question = ask(digits[0][0, 0]) | changes
    with pytest.raises(RequestError, match=f"^{message}$"):
        by_hand.look(question)


def test_digits_to_pick(tmp_path, monkeypatch, real_mnist):
    monkeypatch.delenv("MINISTN_DATA", raising=False)
    monkeypatch.setattr(data.mnist, "cache_folder", lambda: tmp_path)
    images, source = load_digits()
    assert (images.shape, images.dtype, source) == ((10, 8, 28, 28), np.uint8, "drawn by ministn")
    with pytest.raises(data.DataError, match="missing file"):
        load_digits(tmp_path)
    monkeypatch.setattr(data.mnist, "load", lambda folder: real_mnist)
    images, source = load_digits(tmp_path)
    assert source == "MNIST test digits"
    for digit in range(10):
        places = np.flatnonzero(real_mnist.test_labels == digit)[:8]
        assert np.array_equal(images[digit], real_mnist.test_images[places])


# --- with a network ---------------------------------------------------------------------------------------------------


def test_a_run_of_train_mnist(digits, run_of_train_mnist):
    folder, small = run_of_train_mnist
    network = read_run(folder)
    assert (network.mean, network.std) == (small.mean, small.std)
    assert network.description.startswith(f"stn, trained on {small.name}, reads ")
    image = digits[0][5, 0]
    answer = Explorer(digits, network).look(ask(image, by="network"))
    x = Tensor(((image[None, None] / 255 - small.mean) / small.std).astype(np.float32))
    with no_grad():
        theta, seen, log_probabilities = network.model.theta(x), network.model.stn(x), network.model(x)
    assert np.abs(theta.data - transforms.Affine().theta(Tensor(transforms.Affine().identity[None])).data).max() > 1e-3
    # roundings of float32: (v - mean) / std is made in another order
    np.testing.assert_allclose(answer["parameters"], theta.data.ravel(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(answer["probabilities"], np.exp(log_probabilities.data[0]), rtol=0, atol=1e-4)
    brightness = 255 * np.clip(seen.data[0, 0] * small.std + small.mean, 0, 1)
    assert np.abs(pixels(answer["output"]) - brightness).max() < 0.51


def test_a_run_that_was_stopped_within_an_epoch(tmp_path, run_of_train_mnist):
    """Weights and accuracy are the checkpoint's, whatever the other files of the run are of."""
    folder = shutil.copytree(run_of_train_mnist[0], tmp_path / "run")
    (folder / "model.safetensors").unlink()
    description = read_run(folder).description
    assert description.endswith(" % of the test digits after epoch 1")
    path = folder / "checkpoint.safetensors"
    checkpoint = records.read_checkpoint(path)
    weight = next(name for name in checkpoint.arrays if name.startswith("model."))
    checkpoint.arrays[weight].fill(0.5)
    checkpoint.info["step"] = 2
    metadata = {"format": records.CHECKPOINT_FORMAT, "version": "1", "info": json.dumps(checkpoint.info)}
    path.write_bytes(records._safetensors(checkpoint.arrays, metadata))
    network = read_run(folder)
    assert (network.model.state_dict()[weight.removeprefix("model.")].data == 0.5).all()
    assert network.description == description.replace(", reads ", ", read ") + ", 2 steps ago"
    checkpoint.info.update(history=[], epoch=0)
    metadata["info"] = json.dumps(checkpoint.info)
    path.write_bytes(records._safetensors(checkpoint.arrays, metadata))
    assert read_run(folder).description.endswith(", after 2 steps")


def test_by_hand_the_classifier_reads_what_the_hand_shows(digits, run_of_train_mnist):
    with_network = Explorer(digits, read_run(run_of_train_mnist[0]))
    own = with_network.look(ask(digits[0][5, 0], by="network"))
    same = with_network.look(ask(digits[0][5, 0], parameters=own["parameters"]))
    assert same["probabilities"] == pytest.approx(own["probabilities"], abs=1e-5)
    away = with_network.look(ask(digits[0][5, 0], parameters=[1, 0, 9, 0, 1, 0]))
    assert {tap["value"] for tap in away["pixel"]["taps"]} == {
        round(with_network.mean, 6)
    }  # what the network reads there
    assert away["probabilities"] != pytest.approx(own["probabilities"], abs=0.01)


def test_a_run_of_table1(digits, run_of_table1):
    network = read_run(run_of_table1)
    assert (network.transform, network.canvas, network.output_size) == ("tps", 42, 56)
    answer = Explorer(digits, network).look(ask(digits[0][2, 0], by="network", pixel=[55, 0]))
    x = Tensor(np.pad(digits[0][2, 0], 7)[None, None].astype(np.float32) / 255)
    with no_grad():
        theta, log_probabilities = network.model.theta(x), network.model(x)
    np.testing.assert_allclose(answer["parameters"], theta.data.ravel(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(answer["probabilities"], np.exp(log_probabilities.data[0]), rtol=0, atol=1e-4)
    assert np.array_equal(pixels(answer["input"]), np.pad(digits[0][2, 0], 7))


def test_folders_that_hold_no_network(tmp_path, run_of_train_mnist):
    with pytest.raises(records.CheckpointError, match=r"config\.json .* or result\.json .*found neither"):
        read_run(tmp_path)
    config = json.loads((run_of_train_mnist[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model": "cnn"}))
    with pytest.raises(records.CheckpointError, match=r"expected a network with a transformer .*, got 'cnn'"):
        read_run(tmp_path)
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(records.CheckpointError, match=r"config\.json: no settings of a run"):
        read_run(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(records.CheckpointError, match=r"checkpoint\.safetensors: there is no such file"):
        read_run(tmp_path)


# --- the server -------------------------------------------------------------------------------------------------------


def serve(explorer):
    """A server in a thread of its own; afterwards it is closed."""
    server = Server(explorer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def server(by_hand):
    yield from serve(by_hand)


def send(server, body, path="/look", method="POST", **headers):
    """The status, the headers and the answer to a request as the page makes it, but for `headers`; None leaves out."""
    host = f"127.0.0.1:{server.server_port}"
    ours = {"Host": host, "Origin": f"http://{host}", "X-Ministn-Token": server.token}
    ours |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    ours |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=120)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in ours.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def test_a_question_of_the_page_is_answered(server, by_hand, digits):
    question = ask(digits[0][6, 0], parameters=MOVED["affine"])
    status, headers, answer = send(server, json.dumps(question).encode())
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert json.loads(answer) == by_hand.look(question)
    assert json.loads(send(server, b"{}", "/start")[2]) == by_hand.start()


def test_many_questions_at_once(server, by_hand, digits):
    """Kernels of two at once must not meet in Numba's threads: some threading layers end the process then."""
    questions = [ask(digits[0][k % 10, 0], turn=[k]) for k in range(24)]
    answers = [None] * len(questions)

    def put(k):
        answers[k] = json.loads(send(server, json.dumps(questions[k]).encode())[2])

    threads = [threading.Thread(target=put, args=(k,)) for k in range(len(questions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [by_hand.look(question) for question in questions]


@pytest.mark.parametrize("path", FILES)
def test_the_page_and_its_headers(server, path):
    status, headers, content = send(server, b"", path, "GET", Origin=None, X_Ministn_Token=None)
    assert status == 200
    assert headers["Content-Type"] == FILES[path][1]
    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert (server.token.encode() in content) == (path == "/")
    assert b"http://" not in content
    assert b"https://" not in content


def test_every_start_has_a_token_of_its_own(server, by_hand):
    other = Server(by_hand)
    other.server_close()
    assert len(other.token) >= 32
    assert other.token != server.token


@pytest.mark.parametrize(
    ("status", "message", "headers"),
    [
        (403, "expected the host", {"Host": "evil.example"}),
        (403, "expected the host", {"Host": "127.0.0.1"}),
        (403, "expected the host", {"Host": None}),
        (403, "expected the page's own origin", {"Origin": "http://evil.example"}),
        (403, "expected the page's own origin", {"Origin": "null"}),
        (403, "expected the page's own origin", {"Origin": None}),
        (403, "expected the token", {"X_Ministn_Token": None}),
        (403, "expected the token", {"X_Ministn_Token": "guessed"}),
        (403, "expected the token", {"X_Ministn_Token": "gue\xdfed"}),
        (415, "expected the content type application/json, got text/plain", {"Content_Type": "text/plain"}),
        (411, "expected a Content-Length alone, got none", {"Content_Length": None}),
        (411, "expected a Content-Length alone, got -1", {"Content_Length": "-1"}),
        (411, "expected a Content-Length alone, got 2", {"Transfer_Encoding": "chunked"}),
        (
            413,
            f"expected at most {LARGEST_BODY} bytes, got {LARGEST_BODY + 1}",
            {"Content_Length": str(LARGEST_BODY + 1)},
        ),
        (413, f"expected at most {LARGEST_BODY} bytes, got 1000000000000", {"Content_Length": "1000000000000"}),
    ],
)
def test_others_are_refused(server, status, message, headers):
    got, _, answer = send(server, b"{}", **headers)
    assert got == status
    assert json.loads(answer)["error"].startswith(message)


@pytest.mark.parametrize(
    ("status", "message", "body", "path"),
    [
        (413, "expected at most", b" " * (LARGEST_BODY + 1), "/look"),
        (400, "expected JSON, got what is none", b"{", "/look"),
        (400, "expected JSON, got what is none", b"\xff", "/look"),
        (400, "expected JSON, got what is none", b"[" * 10_000, "/look"),
        (400, "expected a JSON object, got list", b"[1]", "/look"),
        (400, "expected finite numbers, got NaN", b'{"turn": [NaN]}', "/look"),
        (400, "expected finite numbers, got -Infinity", b'{"turn": [-Infinity]}', "/look"),
        (400, "image: expected a list of 784 numbers, got None", b"{}", "/look"),
        (404, "expected a question to one of /start, /look", b"{}", "/else"),
    ],
)
def test_bodies_that_are_refused(server, status, message, body, path):
    got, headers, answer = send(server, body, path)
    assert got == status
    assert headers["Content-Type"] == "application/json"
    assert json.loads(answer)["error"].startswith(message)


@pytest.mark.parametrize("path", ["/page.html", "/../look.py", "/server.py", "/?", "/%2e%2e/look.py"])
def test_nothing_else_is_handed_out(server, path):
    assert send(server, b"", path, "GET")[0] == 404
    assert send(server, b"", "/", "GET", Host="evil.example:80")[0] == 403


def test_a_fault_is_said_and_does_not_end_the_server(server, by_hand, digits, monkeypatch, capsys):
    question = json.dumps(ask(digits[0][0, 0])).encode()
    with monkeypatch.context() as patch:
        patch.setitem(server.answers, "/look", lambda request: 1 / 0)
        status, _, answer = send(server, question)
    assert (status, json.loads(answer)) == (500, {"error": "ZeroDivisionError: division by zero"})
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert send(server, question)[0] == 200


def test_a_connection_that_is_gone_when_its_request_is_refused(server, monkeypatch, capsys):
    def gone(connection, how):
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "shutdown", gone)
        assert send(server, b"{}", Host="evil.example")[0] == 403
        for thread in threading.enumerate():  # of the server, which says what went wrong at the end of a connection
            if "process_request_thread" in thread.name:
                thread.join(20)
    assert capsys.readouterr().err == ""


def test_a_body_that_does_not_come_is_not_waited_for(server, by_hand, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Handler, "timeout", 0.5)
        with pytest.raises(ConnectionError):
            send(server, b"{}", Content_Length="3")
    assert send(server, b"{}", "/start")[0] == 200


def test_the_command_serves_until_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # else one that is ignored is handed on
    process = subprocess.Popen(
        [sys.executable, "-m", "ministn", "explore", "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = [process.stdout.readline() for _ in range(2)]
        address = lines[1].split()[0]
        with urllib.request.urlopen(address, timeout=120) as page:
            assert b"<title>ministn explorer" in page.read()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        signal.signal(signal.SIGINT, before)
        process.kill()
    assert (process.returncode, err) == (0, "")
    assert address.startswith("http://127.0.0.1:")


def test_what_the_command_refuses(tmp_path, capsys, monkeypatch, server):
    monkeypatch.setattr(Server, "run", lambda *arguments, **options: pytest.fail("it served"))

    def main(*arguments):
        parser = argparse.ArgumentParser()
        explorer.add_arguments(parser)
        assert explorer.main(parser.parse_args(list(arguments))) == 2
        return capsys.readouterr().err

    assert main(str(tmp_path)).startswith(f"explore: {tmp_path}: expected the folder of a finished run")
    assert main("--data-dir", str(tmp_path)).startswith(f"explore: {tmp_path}: missing file")
    monkeypatch.delenv("MINISTN_DATA", raising=False)
    monkeypatch.setattr(data.mnist, "cache_folder", lambda: tmp_path)
    assert "cannot serve on 127.0.0.1, port 99999" in main("--port", "99999")
    assert f"port {server.server_port}: " in main("--port", str(server.server_port))


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_network(digits, run_of_train_mnist):
    yield from serve(Explorer(digits, read_run(run_of_train_mnist[0])))


@pytest.fixture(scope="module")
def chromium():
    program = browser.find()
    if program is None:
        pytest.skip("no browser on this machine: install chromium to test the page")
    with browser.Browser(program) as page:
        yield page


def show(chromium, server):
    """Open the page, and wait until it is drawn."""
    chromium.resize(1280, 800)
    chromium.open(server.address)
    settle(chromium)
    return chromium


@pytest.fixture
def page(chromium, server):
    """The page without a network."""
    chromium.events.clear()
    yield show(chromium, server)
    assert chromium.complaints() == []


@pytest.fixture
def page_with_network(chromium, with_network):
    chromium.events.clear()
    yield show(chromium, with_network)
    assert chromium.complaints() == []


def settle(page):
    """Wait until the latest question is answered and drawn."""
    page.wait_for("document.body?.dataset.ready && !asking")


def look_of(page, canvas):
    return page.run(f"document.getElementById('{canvas}').toDataURL()")


def box(page, selector):
    """Left, top, width and height in the window."""
    return page.run(
        f"(() => {{ const element = document.querySelector({json.dumps(selector)}); element.scrollIntoView();"
        " const b = element.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
    )


def at(page, selector, across=0.5, down=0.5):
    left, top, width, height = box(page, selector)
    return left + across * width, top + down * height


def test_a_slider_moves_the_output(page):
    before, grid = look_of(page, "output"), look_of(page, "input")
    theta = page.run("answer.parameters")
    y = at(page, "#theta2")[1]
    page.mouse((at(page, "#theta2", 0.5)[0], y), (at(page, "#theta2", 0.7)[0], y))
    settle(page)
    after = page.run("answer.parameters")
    assert after[2] > theta[2] + 0.2
    assert after[:2] + after[3:] == pytest.approx(theta[:2] + theta[3:], abs=0.005)  # the sliders' steps are 0.01
    assert look_of(page, "output") != before
    assert look_of(page, "input") != grid
    assert page.run("document.querySelector('#theta label:nth-child(3)').textContent").startswith(
        f"θ13 = {after[2]:.2f}∂V/∂θ "
    )


def test_the_output_canvas_shows_what_was_computed(page, by_hand, digits):
    page.run("setDigit(start.digits[0][0])")
    settle(page)
    shown = page.run(
        "(() => { const { width } = $('output');"
        " const rgba = $('output').getContext('2d').getImageData(0, 0, width, width).data;"
        " const middle = (place) => Math.floor((place + 0.5) * width / 28), range = [...Array(28).keys()];"
        " return range.map((row) => range.map((column) => rgba[4 * (middle(row) * width + middle(column))])); })()"
    )
    theta = page.run("state.parameters.affine")
    expected = pixels(by_hand.look(ask(digits[0][0, 0], parameters=theta))["output"])
    differs = np.argwhere(np.array(shown) != expected)
    chosen = page.run("state.pixel")
    assert np.abs(differs - chosen).max(initial=0) <= 1  # only where the frame of the chosen pixel lies


def test_drawing_with_the_mouse(page):
    page.run("$('clear').click()")
    settle(page)
    assert not page.run("Math.max(...answer.output.pixels)")
    page.mouse(at(page, "#draw", 0.5, 0.2), at(page, "#draw", 0.5, 0.5), at(page, "#draw", 0.5, 0.8))
    settle(page)
    drawn = np.array(page.run("state.image")).reshape(28, 28)
    assert drawn[8:20, 13:15].min() == 255  # a line down the middle ...
    assert not drawn[:, :11].any()  # ... and nothing beside it
    assert not drawn[:, 17:].any()
    assert page.run("answer.output.pixels.filter((value) => value > 128).length") > 20


def test_the_first_stroke_replaces_a_picked_digit(page, digits):
    page.mouse(at(page, "#digits button:nth-child(8)"))
    settle(page)
    assert page.run("state.image") == digits[0][7, 0].ravel().tolist()
    page.mouse(at(page, "#draw", 0.1, 0.1))
    settle(page)
    drawn = np.array(page.run("state.image")).reshape(28, 28)
    assert drawn[:6, :6].any()
    assert not drawn[6:].any()


def test_an_output_pixel_is_chosen_by_mouse_and_keys(page):
    page.mouse(at(page, "#output", 10.5 / 28, 6.5 / 28))
    settle(page)
    assert page.run("[answer.pixel.row, answer.pixel.column, $('row').value, $('column').value]") == [6, 10, "6", "10"]
    page.run("$('output').focus()")
    page.press("ArrowRight")
    page.press("ArrowDown")
    settle(page)
    pixel = page.run("answer.pixel")
    assert (pixel["row"], pixel["column"]) == (7, 11)
    formula = page.run("$('formula').textContent")
    assert formula.startswith("V [7, 11]")
    assert formula.endswith(f"{pixel['value']:.3f}")
    for tap in pixel["taps"]:
        assert f"{tap['weight']:.2f} · {tap['value']:.2f}" in formula


def test_a_control_point_is_dragged_and_moved_by_keys(page):
    page.run("choice('tps').click()")
    settle(page)
    straight = look_of(page, "input")
    page.mouse(at(page, "#points button:nth-child(6)"), at(page, "#input", 0.5, 0.5))
    settle(page)
    parameters = page.run("answer.parameters")
    identity = transforms.ThinPlateSpline().identity
    assert parameters[10:12] == pytest.approx([0, 0], abs=0.02)  # the middle, to the pixel of the window
    assert parameters[:10] + parameters[12:] == pytest.approx([*identity[:10], *identity[12:]], abs=1e-6)
    assert look_of(page, "input") != straight
    page.run("document.querySelector('#points button').focus()")
    page.press("ArrowRight")
    settle(page)
    assert page.run("answer.parameters").copy()[:2] == pytest.approx([-0.95, -1])


def test_the_network_reads_and_lets_itself_be_taken_over(page_with_network):
    page = page_with_network
    assert page.run("choice('network').checked")
    assert page.run("$('read').textContent").startswith("The trained network reads this as ")
    assert sum(page.run("answer.probabilities")) == pytest.approx(1, abs=1e-4)
    own = page.run("answer.parameters")
    page.run("setTurn(-60)")
    settle(page)
    assert page.run("answer.parameters") != own
    own = page.run("answer.parameters")
    page.run("(() => { const s = $('theta5'); s.value = 0.5; s.dispatchEvent(new Event('input')); })()")
    settle(page)
    assert page.run("[state.by, choice('affine').checked]") == ["hand", True]
    assert page.run("answer.parameters") == pytest.approx([*own[:5], 0.5], abs=1e-6)


def test_without_a_network_the_page_says_how_to_get_one(page):
    assert page.run("choice('network').disabled")
    assert "python examples/train_mnist.py" in page.run("$('read').textContent")


def test_only_the_latest_of_many_questions_counts(page):
    page.run("performance.clearResourceTimings()")
    page.run("for (let k = 0; k < 100; k++) setTurn(k)")
    settle(page)
    assert page.run("performance.getEntriesByName(new URL('look', location).href).length") <= 2
    assert page.run("$('turned').textContent") == "99°"


def test_keys_on_a_slider_are_not_lost_while_an_answer_is_awaited(page):
    page.run("$('theta0').focus()")
    before = page.run("state.parameters.affine[0]")
    for _ in range(10):
        page.press("ArrowLeft")
    settle(page)
    assert page.run("answer.parameters[0]") == pytest.approx(before - 10 * 0.01, abs=0.0051)  # the first goes to a step


def test_an_error_is_shown_and_goes_away(chromium, server):
    page = show(chromium, server)
    page.run("state.turn = 1000, look()")
    assert page.run("[$('error').hidden, $('error').textContent]") == [
        False,
        "turn: expected numbers from -180 to 180, got 1000",
    ]
    page.run("setTurn(0)")
    settle(page)
    assert page.run("$('error').hidden")


def test_the_digit_swings_until_it_is_told_to_stop(page):
    page.run("$('swing').click()")
    page.wait_for("Math.abs(state.turn) > 20")
    page.run("$('swing').click()")
    settle(page)
    turn = page.run("state.turn")
    assert page.run("new Promise((done) => setTimeout(() => done(state.turn), 100))") == turn


def test_a_network_with_a_larger_canvas_and_a_larger_output(chromium, digits, run_of_table1):
    chromium.events.clear()
    for server in serve(Explorer(digits, read_run(run_of_table1))):
        page = show(chromium, server)
        assert page.run("[answer.input.size, answer.output.size, $('row').max]") == [42, 56, "55"]
        page.mouse(at(page, "#output", 55.5 / 56, 0.5 / 56))
        settle(page)
        assert page.run("state.pixel") == [0, 55]
        assert page.run("document.querySelectorAll('#points button').length") == 16
        assert page.complaints() == []


@pytest.mark.parametrize("width", [1280, 900, 360])
def test_it_fits_the_window_and_has_names_for_all(page, width):
    page.resize(width, 800)
    assert page.run("document.documentElement.scrollWidth") <= width
    if width == 1280:
        assert page.run("document.documentElement.scrollHeight") <= 800
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "slider", "radio", "spinbutton", "image", "img", "group", "radiogroup"}
    used = [node for node in tree if not node.get("ignored") and node["role"]["value"] in roles]
    assert len(used) > 30
    assert [node["role"]["value"] for node in used if not node.get("name", {}).get("value")] == []
