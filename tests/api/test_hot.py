"""``tokens``: what is taken, what is refused, and that refusals change nothing."""


async def test_append_and_read_back(region):
    """Tokens that were acknowledged are in the message, and the answer counts them."""
    lane = await region.open()
    reply = await region.append(lane, 0, ["Hel", "lo"])
    assert reply.status == 200
    assert reply.json == {"next": 2, "accepted": 2, "stable": None, "duplicates": 0, "ended": None}
    assert reply.header("perdure-region") == "eu"
    assert (await region.request("GET", lane.path)).json["text"] == "Hello"
