"""The chat page of a server (`qwenkit serve --ui`), on gradio; nothing of it is imported without `--ui`.

| file                | what it holds                                                                  |
| ------------------- | ------------------------------------------------------------------------------ |
| `tree.py`           | a conversation with its branches, as a value                                   |
| `transcript.py`     | a conversation as a file: JSON, Markdown                                       |
| `plain_markdown.py` | text in which every tag is text and no picture is fetched                      |
| `texts.py`          | what the page says, in English and Chinese                                     |
| `view.py`           | what is shown of a conversation                                                |
| `model_line.py`     | which model answers, how large it is, and that a toy is one                    |
| `asked_settings.py` | from the fields of the page to the fields of a request                         |
| `attached.py`       | text files that go with a message                                              |
| `asking.py`         | requests to the server's own front, without a network                          |
| `writing.py`        | the answers of all models, as they come                                        |
| `sessions.py`       | the open pages: whose they are, what they have running                         |
| `key_form.py`       | the form that asks for a key, and its cookie                                   |
| `gate.py`           | which of gradio's paths are open, and the policy that browsers obey            |
| `layout.py`         | gradio's components and events; the one module that imports gradio at its top  |
| `mount.py`          | puts all of it on the server                                                   |
| `page.js, *.css`    | files, keys of the keyboard, light and dark, and how it looks                  |
"""
