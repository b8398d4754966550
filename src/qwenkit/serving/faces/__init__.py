"""A pure codec for each API: `parse` a body, `whole` response, `Stream` of server-sent events, `error`.

    request = chat_completions.parse(body)                   # bytes or an object; raises `Refused`
    response = chat_completions.whole(request, reply, events)
    stream = chat_completions.Stream(request, reply)
    frames = stream.push(events)                             # text to send; the last ones with `Ended` or `Failed`
    status, body = chat_completions.error(refusal)

No codec knows of the network, of a model or of the time: the same events give the same bytes.
"""
