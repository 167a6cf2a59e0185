#!/usr/bin/env python3
"""Drives mosquitto_pub and mosquitto_sub, at MQTT 3.1, 3.1.1 and 5.0, against a broker."""

import queue
import subprocess
import tempfile
import threading

from checks import Checks, Failed, VERSIONS, expect, large_payload, shorten

checks = Checks(__doc__)
FLAG = {"3.1": "mqttv31", "3.1.1": "mqttv311", "5.0": "mqttv5"}
# A process that outlives its script (because that was killed) ends by itself.
ORPHAN_S = "60"


class Message:
    """One line that mosquitto_sub printed."""

    FORMAT = "message|%q|%r|%t|%x"
    PROPERTIES = "|%C|%R|%D|%F|%P"

    def __init__(self, line):
        _, qos, retain, self.topic, payload, *self.properties = line.split("|")
        self.qos, self.retain, self.payload = int(qos), retain == "1", bytes.fromhex(payload)


class Subscriber:
    """A running mosquitto_sub; `with` ends it. Ready, when constructed: every SUBACK has arrived."""

    def __init__(self, version, topics, qos=0, options=(), wanted_properties=False):
        formatting = Message.FORMAT + (Message.PROPERTIES if wanted_properties else "")
        # Without a terminal its debug lines, SUBACK among them, would stay in the output buffer.
        command = ["stdbuf", "-oL", "mosquitto_sub", "-d", "-F", formatting, "-W", ORPHAN_S]
        command += [*address(version), "-q", str(qos), *options]
        for topic in topics:
            command += ["-t", topic]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._messages, self._granted, self._other = queue.Queue(), queue.Queue(), []
        threading.Thread(target=self._read, daemon=True).start()
        try:
            granted = self._next(self._granted, "SUBACK").rsplit(": ", 1)[1]
        except Failed:
            self.__exit__()
            raise
        self.granted = [int(code) for code in granted.split(", ")]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def _read(self):
        for line in self.process.stdout:
            line = line.rstrip("\n")
            if line.startswith("message|"):
                self._messages.put(Message(line))
            elif line.startswith("Subscribed ("):
                self._granted.put(line)
            else:
                self._other.append(line)
        self._messages.put(None)
        self._granted.put(None)

    def _next(self, source, what):
        try:
            got = source.get(timeout=checks.left())
        except queue.Empty:
            raise Failed(f"no {what} arrived; last output: {shorten(self._other[-3:])}") from None
        if got is None:
            source.put(None)
            raise Failed(f"ended before {what} arrived; last output: {shorten(self._other[-3:])}")
        return got

    def take(self, count):
        """The next messages; fails when fewer arrive in time."""
        return [self._next(self._messages, f"message {n + 1} of {count}") for n in range(count)]

    def take_until(self, payload):
        """The messages before the one with this payload: a fence that shows that nothing else came."""
        taken = []
        while (message := self.take(1)[0]).payload != payload:
            taken.append(message)
        return taken


def address(version):
    place = ["--unix", checks.unix] if checks.unix else ["-h", checks.host, "-p", str(checks.port)]
    return ["-V", FLAG[version], *place, *(["--cafile", checks.cafile] if checks.cafile else [])]


def finish(command, text=None):
    """Runs a client to its end and fails unless it succeeds."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=checks.left())
    except subprocess.TimeoutExpired:
        raise Failed(f"{command[0]} did not finish") from None
    if done.returncode != 0:
        raise Failed(f"{command[0]} exited with {done.returncode}: {done.stderr or done.stdout}")


def publish(version, topic, payload, qos=0, options=()):
    body = ["-m", payload] if payload else ["-n"]
    finish(["mosquitto_pub", *address(version), "-t", topic, "-q", str(qos), *body, *options])


def publish_lines(version, topic, payloads, qos):
    """One connection that publishes several messages in order."""
    lines = "".join(f"{payload}\n" for payload in payloads)
    finish(["mosquitto_pub", *address(version), "-t", topic, "-q", str(qos), "-l"], text=lines)


def every_qos(version, subscribed):
    topic = checks.topic("qos")
    with Subscriber(version, [topic], subscribed) as subscriber:
        expect("granted QoS", subscriber.granted, [subscribed])
        for published in (0, 1, 2):
            publish(version, topic, f"at {published}", published)
            message = subscriber.take(1)[0]
            expect("payload", message.payload, b"at %d" % published)
            expect(f"QoS of a message published at {published}", message.qos, min(published, subscribed))
            expect("retain", message.retain, False)
        publish(version, topic, "fence", 0)
        expect("messages too many", len(subscriber.take_until(b"fence")), 0)


def between_versions():
    topic = checks.topic("versions")
    for receiving in VERSIONS:
        with Subscriber(receiving, [topic], 2) as subscriber:
            for sending in VERSIONS:
                publish(sending, topic, sending, 2)
                message = subscriber.take(1)[0]
                expect(f"{sending} to {receiving}", (message.payload.decode(), message.qos), (sending, 2))


def wildcards(version):
    topic = checks.topic("wild")
    with Subscriber(version, [f"{topic}/+/c", f"{topic}/x/#"], 1) as subscriber:
        for name in ("a/c", "a/d", "x", "x/y/z", "/c"):
            publish(version, f"{topic}/{name}", name, 1)
        publish(version, f"{topic}/x", "fence", 1)
        got = [message.payload.decode() for message in subscriber.take_until(b"fence")]
        expect("matching topics", got, ["a/c", "x", "x/y/z", "/c"])


def retained(version):
    topic = checks.topic("retained")
    with Subscriber(version, [topic], 1) as live:
        publish(version, topic, "first", 1, ["-r"])
        publish(version, topic, "second", 1, ["-r"])
        expect("retain, when forwarded", [m.retain for m in live.take(2)], [False, False])
    with Subscriber(version, [topic], 1) as late:
        message = late.take(1)[0]
        expect("on subscribe", (message.payload, message.retain, message.qos), (b"second", True, 1))
    publish(version, topic, "", 1, ["-r"])
    with Subscriber(version, [topic], 1) as after:
        publish(version, topic, "fence", 1)
        expect("messages after clearing", [m.payload for m in after.take_until(b"fence")], [])


def will_after_a_kill(version):
    topic, own = checks.topic("will"), checks.topic("own")
    will = ["--will-topic", topic, "--will-payload", "gone", "--will-qos", "1"]
    with Subscriber(version, [topic], 1) as watcher:
        with Subscriber(version, [own], 0, ["-i", checks.client_id("will"), *will]) as dying:
            dying.process.kill()
            message = watcher.take(1)[0]
        expect("will", (message.payload, message.qos, message.retain), (b"gone", 1, False))


def retained_will(version):
    topic, own = checks.topic("will"), checks.topic("own")
    will = ["--will-topic", topic, "--will-payload", "gone", "--will-qos", "2", "--will-retain"]
    with Subscriber(version, [topic], 2) as watcher:
        with Subscriber(version, [own], 0, will) as dying:
            dying.process.kill()
            watcher.take(1)
    with Subscriber(version, [topic], 2) as late:
        message = late.take(1)[0]
        expect("retained will", (message.payload, message.qos, message.retain), (b"gone", 2, True))
    publish(version, topic, "", 1, ["-r"])


def no_will_after_disconnect(version):
    topic, own = checks.topic("will"), checks.topic("own")
    with Subscriber(version, [topic], 1) as watcher:
        # -E sends DISCONNECT as soon as the SUBACK has arrived.
        leave = ["-E", "--will-topic", topic, "--will-payload", "gone", "--will-qos", "1"]
        finish(["mosquitto_sub", *address(version), "-t", own, *leave])
        publish(version, topic, "fence", 1)
        expect("wills", [m.payload for m in watcher.take_until(b"fence")], [])


def persistent_session(version):
    topic, elsewhere = checks.topic("session"), checks.topic("elsewhere")
    session = ["-c", "-i", checks.client_id("away")]
    finish(["mosquitto_sub", *address(version), *session, "-q", "2", "-t", topic, "-E"])
    wanted = {1: [f"one {n}" for n in range(20)], 2: [f"two {n}" for n in range(20)]}
    for qos, payloads in wanted.items():
        publish_lines(version, topic, payloads, qos)
    # It subscribes to something else on its return: what arrives is due to the subscription it kept.
    with Subscriber(version, [elsewhere], 2, session) as back:
        got = back.take(40)
        for qos, payloads in wanted.items():
            expect(f"queued at QoS {qos}", [m.payload.decode() for m in got if m.qos == qos], payloads)
        publish(version, topic, "fence", 2)
        expect("messages too many", len(back.take_until(b"fence")), 0)
    clean = ["-i", session[2]]
    with Subscriber(version, [elsewhere], 2, clean) as fresh:
        publish(version, topic, "lost", 2)
        publish(version, elsewhere, "fence", 2)
        expect("messages to a clean session", [m.payload for m in fresh.take_until(b"fence")], [])


def beyond_the_receive_maximum(version):
    """mosquitto_sub announces a Receive Maximum of 20 and disconnects when a 21st PUBLISH comes [MQTT-3.3.4-9].

    The broker mosquitto 2.0.11 fails here: it sends what was queued at QoS 2 without waiting for PUBCOMP.
    """
    topic, wanted = checks.topic("many"), [f"{n}" for n in range(60)]
    session = ["-c", "-i", checks.client_id("many")]
    finish(["mosquitto_sub", *address(version), *session, "-q", "2", "-t", topic, "-E"])
    publish_lines(version, topic, wanted, 2)
    with Subscriber(version, [topic], 2, session) as back:
        expect("queued messages", [m.payload.decode() for m in back.take(60)], wanted)
    finish(["mosquitto_sub", *address(version), *session[1:], "-t", topic, "-E"])


def shared_subscription(version):
    topic, wanted = checks.topic("shared"), [f"{n}" for n in range(30)]
    fences = [checks.topic("fence") for _ in range(3)]
    members = []
    try:
        for fence in fences:
            members.append(Subscriber(version, [f"$share/group/{topic}", fence], 1))
        with Subscriber(version, [topic], 1) as everything:
            publish_lines(version, topic, wanted, 1)
            expect("ordinary subscriber", [m.payload.decode() for m in everything.take(30)], wanted)
        got = []
        for member, fence in zip(members, fences):
            publish(version, fence, "fence", 1)
            got += [int(m.payload) for m in member.take_until(b"fence")]
        expect("messages of the group", sorted(got), list(range(30)))
    finally:
        for member in members:
            member.__exit__()


def properties_pass_through(version):
    topic = checks.topic("properties")
    options = []
    for name, value in (
        ("content-type", "text/plain"),
        ("response-topic", "answer/here"),
        ("correlation-data", "c0ffee"),
        ("payload-format-indicator", "1"),
    ):
        options += ["-D", "publish", name, value]
    for name, value in (("colour", "blue"), ("size", "9"), ("colour", "red")):
        options += ["-D", "publish", "user-property", name, value]
    with Subscriber(version, [topic], 1, wanted_properties=True) as subscriber:
        publish(version, topic, "hello", 1, options)
        content_type, response, correlation, indicator, users = subscriber.take(1)[0].properties
        expect("Content Type", content_type, "text/plain")
        expect("Response Topic", response, "answer/here")
        expect("Correlation Data", correlation, "c0ffee")
        expect("Payload Format Indicator", indicator, "1")
        expect("User Properties", users.strip(), "colour:blue size:9 colour:red")


def one_mebibyte(version, qos):
    topic, payload = checks.topic("large"), large_payload()
    with Subscriber(version, [topic], qos) as subscriber, tempfile.NamedTemporaryFile() as file:
        file.write(payload)
        file.flush()
        finish(["mosquitto_pub", *address(version), "-t", topic, "-q", str(qos), "-f", file.name])
        if subscriber.take(1)[0].payload != payload:
            raise Failed("the payload came back changed")


def short():
    for version in VERSIONS:
        checks.run(f"{version} every QoS to a subscription at 2", every_qos, version, 2)
    checks.run("5.0 1 MiB at QoS 1", one_mebibyte, "5.0", 1)


def long():
    for version in VERSIONS:
        for subscribed in (0, 1, 2):
            checks.run(f"{version} every QoS to a subscription at {subscribed}", every_qos, version, subscribed)
        checks.run(f"{version} wildcards", wildcards, version)
        checks.run(f"{version} retained: set, replaced, received, cleared", retained, version)
        checks.run(f"{version} will after a kill", will_after_a_kill, version)
        checks.run(f"{version} retained will", retained_will, version)
        checks.run(f"{version} no will after DISCONNECT", no_will_after_disconnect, version)
        checks.run(f"{version} persistent session with offline messages", persistent_session, version)
        for qos in (0, 1, 2):
            checks.run(f"{version} 1 MiB at QoS {qos}", one_mebibyte, version, qos)
    checks.run("every version to every version", between_versions)
    checks.run("5.0 more offline messages than the Receive Maximum", beyond_the_receive_maximum, "5.0")
    checks.run("5.0 shared subscription", shared_subscription, "5.0")
    checks.run("5.0 properties pass through", properties_pass_through, "5.0")


short() if checks.short else long()
checks.exit()
