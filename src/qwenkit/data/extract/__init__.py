"""Text extraction (section 2.1, step 1): `text.extract_text` turns a page into text; `main_content` is its fast tier,
whose steps lie in `html`.
"""
