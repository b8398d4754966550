"""The server: one request inside, the APIs that clients speak outside.

| file                | what it holds                                                                   |
| ------------------- | ------------------------------------------------------------------------------- |
| `request.py`        | what is asked, and the events that an answer consists of: the internal form     |
| `refusals.py`       | why a request is refused, in no API's form yet                                  |
| `answer_events.py`  | from the engine's deltas to those events                                        |
| `prompts.py`        | from a prompt of the internal form to what the engine reads                     |
| `json_body.py`      | the body of a request as JSON, with its limits                                  |
| `fields.py`         | the fields of a body: known, checked, refused by name                           |
| `faces/`            | a pure codec for each API: body to request, events to response                  |
"""
