#!/usr/bin/env python3
"""Drives the client library paho-mqtt, at MQTT 3.1, 3.1.1 and 5.0, against a broker."""

import contextlib
import os
import selectors
import socket
import ssl
import threading
import time

from paho.mqtt import client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from checks import Checks, Failed, VERSIONS, expect, large_payload, shorten

checks = Checks(__doc__)
PROTOCOL = {"3.1": mqtt.MQTTv31, "3.1.1": mqtt.MQTTv311, "5.0": mqtt.MQTTv5}
CROWD = 200
# What can wait for one client of the crowd: a message, and the acknowledgement of its own.
PACKETS_AT_ONCE = 3
# One for all: what the authorities' file says is read once, not by every client.
TLS = ssl.create_default_context(cafile=checks.cafile) if checks.cafile else None


def library_client(version, client_id, clean=True):
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=PROTOCOL[version],
        transport="websockets" if checks.websocket else "tcp",
        clean_session=None if version == "5.0" else clean,
        reconnect_on_failure=False,
    )
    if checks.websocket:
        client.ws_set_options(path=checks.websocket)
    if TLS is not None:
        client.tls_set_context(TLS)
    return client


def connect_options(version, clean):
    """What `connect` needs at 5.0. A session that is not clean outlives its connection."""
    if version != "5.0":
        return {}
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 0 if clean else 300
    return {"clean_start": clean, "properties": properties}


class Peer:
    """A connected client with its own thread, and what it received. `with` disconnects it."""

    def __init__(self, version, client_id=None, clean=True, will=None):
        self._changed = threading.Condition()
        self._messages, self._taken, self._answers, self._lost = [], 0, {}, None
        self.version = version
        self.client = library_client(version, client_id or checks.client_id("paho"), clean)
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = self._on_answer
        self.client.on_unsubscribe = self._on_answer
        self.client.on_publish = self._on_answer
        self.client.on_message = self._on_message
        self.client.on_disconnect = self._on_disconnect
        if will is not None:
            self.client.will_set(**will)
        self.client.connect(checks.host, checks.port, **connect_options(version, clean))
        self.client.loop_start()
        try:
            self.session_present, reason = self._answer("CONNACK", "connect")
            expect("CONNACK", str(reason), "Success")
        except Failed:
            self.vanish()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.disconnect()
        self.client.loop_stop()

    def vanish(self):
        """Ends the connection without DISCONNECT."""
        if (connection := self.client.socket()) is not None:
            # What paho has around the socket, for WebSocket, cannot do it.
            with socket.socket(fileno=os.dup(connection.fileno())) as raw:
                with contextlib.suppress(OSError):  # the broker may have been first
                    raw.shutdown(socket.SHUT_RDWR)
        self.client.loop_stop()

    def subscribe(self, topic, qos=0, **options):
        """Returns the Reason Code of the SUBACK as a number."""
        _, mid = self.client.subscribe(topic, qos, **options)
        return self._answer("SUBACK", mid)[0].value

    def unsubscribe(self, topic):
        _, mid = self.client.unsubscribe(topic)
        self._answer("UNSUBACK", mid)

    def publish(self, topic, payload, qos=1, retain=False, properties=None):
        """Returns once the broker has acknowledged, or for QoS 0 once the packet is written."""
        info = self.client.publish(topic, payload, qos, retain, properties)
        reason = self._answer("acknowledgement", info.mid)
        if reason.is_failure:
            raise Failed(f"publish refused: {reason}")

    def publish_all(self, topic, payloads, qos):
        """Publishes in order without waiting in between."""
        sent = [self.client.publish(topic, payload, qos) for payload in payloads]
        for info in sent:
            self._answer("acknowledgement", info.mid)

    def take(self, count):
        """The next messages; fails when fewer arrive in time."""
        wanted = self._taken + count
        self._wait(lambda: len(self._messages) >= wanted, f"{count} messages")
        taken = self._messages[self._taken : wanted]
        self._taken = wanted
        return taken

    def take_until(self, payload):
        """The messages before the one with this payload: a fence that shows that nothing else came."""
        taken = []
        while (message := self.take(1)[0]).payload != payload:
            taken.append(message)
        return taken

    def wait_until_lost(self):
        """Returns when the broker has ended the connection."""
        self._wait(lambda: self._lost, "the end of the connection")

    def _answer(self, what, key):
        self._wait(lambda: key in self._answers, what)
        return self._answers.pop(key)

    def _wait(self, condition, what):
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._lost, checks.left())
            if not condition():
                held = [m.payload for m in self._messages[self._taken :]]
                raise Failed(f"waited for {what}; connection lost: {self._lost}; holding {shorten(held)}")

    def _set(self, key, value):
        with self._changed:
            self._answers[key] = value
            self._changed.notify_all()

    def _on_connect(self, _client, _userdata, flags, reason, _properties):
        self._set("connect", (flags.session_present, reason))

    def _on_answer(self, _client, _userdata, mid, reason, _properties):
        self._set(mid, reason)

    def _on_message(self, _client, _userdata, message):
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()

    def _on_disconnect(self, _client, _userdata, _flags, reason, _properties):
        with self._changed:
            self._lost = str(reason)
            self._changed.notify_all()


def every_qos(version):
    with Peer(version) as publisher:
        for subscribed in (0, 1, 2):
            topic = checks.topic("qos")
            with Peer(version) as subscriber:
                expect("granted QoS", subscriber.subscribe(topic, subscribed), subscribed)
                for published in (0, 1, 2):
                    publisher.publish(topic, f"at {published}", published)
                    message = subscriber.take(1)[0]
                    got = (message.payload, message.qos, message.retain)
                    wanted = (b"at %d" % published, min(published, subscribed), False)
                    expect(f"{published} to {subscribed}", got, wanted)
                publisher.publish(topic, "fence", 2)
                expect("messages too many", len(subscriber.take_until(b"fence")), 0)


def order(version, qos):
    topic, wanted = checks.topic("order"), [b"%d" % n for n in range(500)]
    with Peer(version) as subscriber, Peer(version) as publisher:
        subscriber.subscribe(topic, qos)
        publisher.publish_all(topic, wanted, qos)
        expect("messages in order", [m.payload for m in subscriber.take(500)], wanted)


def unsubscribe(version):
    topic, other = checks.topic("gone"), checks.topic("kept")
    with Peer(version) as peer:
        peer.subscribe(topic, 1)
        peer.subscribe(other, 1)
        peer.unsubscribe(topic)
        peer.publish(topic, "unwanted")
        peer.publish(other, "fence")
        expect("after UNSUBACK", [m.payload for m in peer.take_until(b"fence")], [])


def retained(version):
    topic = checks.topic("retained")
    with Peer(version) as publisher:
        publisher.subscribe(topic, 1)
        publisher.publish(topic, "first", 1, retain=True)
        publisher.publish(topic, "second", 1, retain=True)
        expect("retain, when forwarded", [m.retain for m in publisher.take(2)], [False, False])
        with Peer(version) as late:
            late.subscribe(f"{topic}/#", 2)
            message = late.take(1)[0]
            got = (message.payload, message.retain, message.qos)
            expect("on subscribe", got, (b"second", True, 1))
        publisher.publish(topic, "", 1, retain=True)
        with Peer(version) as after:
            after.subscribe(topic, 1)
            publisher.publish(topic, "fence", 1)
            expect("messages after clearing", [m.payload for m in after.take_until(b"fence")], [])


def wills(version):
    topic = checks.topic("will")
    for qos in (0, 1, 2):
        with Peer(version) as watcher:
            watcher.subscribe(topic, 2)
            will = {"topic": topic, "payload": "gone", "qos": qos}
            Peer(version, will=will).vanish()
            message = watcher.take(1)[0]
            expect("will", (message.payload, message.qos, message.retain), (b"gone", qos, False))
            with Peer(version, will=will):
                pass
            watcher.publish(topic, "fence", 2)
            got = [m.payload for m in watcher.take_until(b"fence")]
            expect("wills after DISCONNECT", got, [])


def will_properties(version):
    topic = checks.topic("will")
    properties = Properties(PacketTypes.WILLMESSAGE)
    properties.ContentType = "text/plain"
    properties.UserProperty = [("cause", "unknown")]
    will = {"topic": topic, "payload": "gone", "qos": 1, "properties": properties}
    with Peer(version) as watcher:
        watcher.subscribe(topic, 1)
        Peer(version, will=will).vanish()
        got = watcher.take(1)[0].properties
        expect("Content Type", got.ContentType, "text/plain")
        expect("User Properties", got.UserProperty, [("cause", "unknown")])


def delayed_will_is_dropped_on_return(version):
    topic, client_id = checks.topic("will"), checks.client_id("will")
    properties = Properties(PacketTypes.WILLMESSAGE)
    properties.WillDelayInterval = 2
    will = {"topic": topic, "payload": "gone", "qos": 1, "properties": properties}
    with Peer(version) as watcher:
        watcher.subscribe(topic, 1)
        Peer(version, client_id, clean=False, will=will).vanish()
        with Peer(version, client_id, clean=False) as back:
            expect("Session Present", back.session_present, True)
            # Its own delayed will, published after the interval, shows that the other's would have come by now.
            Peer(version, clean=False, will=will | {"payload": "fence"}).vanish()
            expect("wills", [m.payload for m in watcher.take_until(b"fence")], [])


def persistent_session(version):
    topic, client_id = checks.topic("session"), checks.client_id("away")
    wanted = {1: [b"one %d" % n for n in range(50)], 2: [b"two %d" % n for n in range(50)]}
    with Peer(version, client_id, clean=False) as first:
        expect("Session Present at first", first.session_present, False)
        first.subscribe(topic, 2)
    with Peer(version) as publisher:
        for qos, payloads in wanted.items():
            publisher.publish_all(topic, payloads, qos)
        with Peer(version, client_id, clean=False) as back:
            if version != "3.1":  # its CONNACK has no such flag
                expect("Session Present on return", back.session_present, True)
            got = back.take(100)
            for qos, payloads in wanted.items():
                expect(f"queued at QoS {qos}", [m.payload for m in got if m.qos == qos], payloads)
            publisher.publish(topic, "fence", 2)
            expect("messages too many", len(back.take_until(b"fence")), 0)
        with Peer(version, client_id, clean=True) as fresh:
            expect("Session Present after a clean start", fresh.session_present, False)
            fresh.subscribe(f"{topic}/fence", 1)
            publisher.publish(topic, "lost", 1)
            publisher.publish(f"{topic}/fence", "fence", 1)
            expect("messages to a clean session", [m.payload for m in fresh.take_until(b"fence")], [])


def takeover(version):
    client_id = checks.client_id("twice")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Peer(version, client_id, clean=False))
        second = stack.enter_context(Peer(version, client_id, clean=False))
        if version != "3.1":
            expect("Session Present", second.session_present, True)
        first.wait_until_lost()
        topic = checks.topic("own")
        second.subscribe(topic, 1)
        second.publish(topic, "alive")
        second.take(1)
    with Peer(version, client_id):
        pass


def shared_subscription(version):
    topic, wanted = checks.topic("shared"), [b"%d" % n for n in range(60)]
    with contextlib.ExitStack() as stack:
        publisher, everything = (stack.enter_context(Peer(version)) for _ in range(2))
        members = [stack.enter_context(Peer(version)) for _ in range(3)]
        everything.subscribe(topic, 1)
        fences = [checks.topic("fence") for _ in members]
        for member, fence in zip(members, fences):
            member.subscribe(f"$share/group/{topic}", 1)
            member.subscribe(fence, 1)
        publisher.publish_all(topic, wanted, 1)
        expect("ordinary subscriber", [m.payload for m in everything.take(60)], wanted)
        got = []
        for member, fence in zip(members, fences):
            publisher.publish(fence, "fence")
            got += [int(m.payload) for m in member.take_until(b"fence")]
        expect("messages of the group", sorted(got), list(range(60)))


def properties_pass_through(version):
    topic = checks.topic("properties")
    users = [("colour", "blue"), ("size", "9"), ("colour", "red"), ("", "größe")]
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = users
    properties.ContentType = "application/json"
    properties.ResponseTopic = "answer/here"
    properties.CorrelationData = b"\x00\xff\x10"
    properties.PayloadFormatIndicator = 1
    properties.MessageExpiryInterval = 100
    for qos in (0, 1, 2):
        with Peer(version) as peer:
            subscription = Properties(PacketTypes.SUBSCRIBE)
            subscription.SubscriptionIdentifier = 268_435_455
            peer.subscribe(topic, qos, properties=subscription)
            peer.publish(topic, "{}", qos, properties=properties)
            got = peer.take(1)[0].properties
            expect("User Properties", got.UserProperty, users)
            expect("Content Type", got.ContentType, "application/json")
            expect("Response Topic", got.ResponseTopic, "answer/here")
            expect("Correlation Data", got.CorrelationData, b"\x00\xff\x10")
            expect("Payload Format Indicator", got.PayloadFormatIndicator, 1)
            expect("Subscription Identifier", got.SubscriptionIdentifier, [268_435_455])
            if not 90 <= got.MessageExpiryInterval <= 100:
                raise Failed(f"Message Expiry Interval: expected at most 100, got {got.MessageExpiryInterval}")


def subscription_options(version):
    topic = checks.topic("options")
    with Peer(version) as peer, Peer(version) as other:
        peer.publish(topic, "kept", 1, retain=True)
        never = SubscribeOptions(1, noLocal=True, retainAsPublished=True, retainHandling=2)
        peer.subscribe(topic, options=never)
        peer.publish(topic, "own", 1)
        other.publish(topic, "fence", 1, retain=True)
        message = peer.take(1)[0]
        expect("first message", (message.payload, message.retain), (b"fence", True))
        other.publish(topic, "", 1, retain=True)


def one_mebibyte(version, qos):
    topic, payload = checks.topic("large"), large_payload()
    with Peer(version) as peer:
        peer.subscribe(topic, qos)
        peer.publish(topic, payload, qos)
        if peer.take(1)[0].payload != payload:
            raise Failed("the payload came back changed")


class Crowd:
    """Many clients of all versions on one thread, so that what is measured is the broker."""

    def __init__(self, size):
        self.selector = selectors.DefaultSelector()
        self.connected = self.granted = self.acknowledged = 0
        self.received, self.clients = [[] for _ in range(size)], []
        for index in range(size):
            version = VERSIONS[index % len(VERSIONS)]
            client = library_client(version, checks.client_id("crowd"))
            client.on_connect, client.on_subscribe = self._on_connect, self._on_subscribe
            client.on_publish, client.on_message = self._on_publish, self._on_message
            client.user_data_set(index)
            client.connect(checks.host, checks.port, **connect_options(version, True))
            self.selector.register(client.socket(), selectors.EVENT_READ, client)
            self.clients.append(client)

    def until(self, condition, what):
        ends = time.monotonic() + checks.left(15)
        while not condition():
            left = ends - time.monotonic()
            if left <= 0:
                counts = (self.connected, self.granted, self.acknowledged, sum(map(len, self.received)))
                raise Failed(f"waited for {what}; connected, granted, acknowledged, received: {counts}")
            for key, _ in self.selector.select(left):
                result = mqtt.MQTT_ERR_SUCCESS
                # It takes one packet at a time, and the selector does not see what paho or TLS has read already.
                for _ in range(PACKETS_AT_ONCE):
                    result = result or key.data.loop_read()
                if result == mqtt.MQTT_ERR_SUCCESS and key.data.want_write():
                    result = key.data.loop_write()
                if result != mqtt.MQTT_ERR_SUCCESS:
                    raise Failed(f"a connection was lost while waiting for {what}: {result!r}")

    def close(self):
        for client in self.clients:
            if client.socket() is not None:
                self.selector.unregister(client.socket())
            client.disconnect()
        self.selector.close()

    def _on_connect(self, _client, _index, _flags, reason, _properties):
        self.connected += not reason.is_failure

    def _on_subscribe(self, _client, _index, _mid, reasons, _properties):
        self.granted += not any(reason.is_failure for reason in reasons)

    def _on_publish(self, _client, _index, _mid, reason, _properties):
        self.acknowledged += not reason.is_failure

    def _on_message(self, _client, index, message):
        self.received[index].append(message.payload)


def many_clients():
    topic = checks.topic("crowd")
    with contextlib.closing(Crowd(CROWD)) as crowd:
        crowd.until(lambda: crowd.connected == CROWD, "every CONNACK")
        for index, client in enumerate(crowd.clients):
            client.subscribe([(f"{topic}/{index}", 1), (f"{topic}/all", 1)])
        crowd.until(lambda: crowd.granted == CROWD, "every SUBACK")
        for index, client in enumerate(crowd.clients):
            client.publish(f"{topic}/{(index + 1) % CROWD}", f"from {index}", 1)
        crowd.until(lambda: crowd.acknowledged == CROWD and all(crowd.received), "a message for each")
        for index, got in enumerate(crowd.received):
            expect(f"received by client {index}", got, [b"from %d" % ((index - 1) % CROWD)])
        crowd.clients[0].publish(f"{topic}/all", "to all", 1)
        crowd.until(lambda: all(len(got) == 2 for got in crowd.received), "one message to all")


def short():
    for version in VERSIONS:
        checks.run(f"{version} every QoS to every QoS", every_qos, version)
    checks.run("5.0 1 MiB at QoS 1", one_mebibyte, "5.0", 1)


def long():
    for version in VERSIONS:
        checks.run(f"{version} every QoS to every QoS", every_qos, version)
        for qos in (0, 1, 2):
            checks.run(f"{version} order of 500 messages at QoS {qos}", order, version, qos)
        checks.run(f"{version} unsubscribe", unsubscribe, version)
        checks.run(f"{version} retained: set, replaced, received, cleared", retained, version)
        checks.run(f"{version} wills: sent after a loss, not after DISCONNECT", wills, version)
        checks.run(f"{version} persistent session with offline messages", persistent_session, version)
        checks.run(f"{version} takeover", takeover, version)
        for qos in (0, 1, 2):
            checks.run(f"{version} 1 MiB at QoS {qos}", one_mebibyte, version, qos)
    checks.run("5.0 will properties", will_properties, "5.0")
    checks.run("5.0 delayed will is dropped on return", delayed_will_is_dropped_on_return, "5.0")
    checks.run("5.0 shared subscription", shared_subscription, "5.0")
    checks.run("5.0 properties pass through", properties_pass_through, "5.0")
    checks.run("5.0 subscription options", subscription_options, "5.0")
    checks.run(f"{CROWD} clients at once", many_clients)


short() if checks.short else long()
checks.exit()
