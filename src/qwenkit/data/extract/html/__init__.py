"""The parts of `qwenkit.data.extract.main_content`, in the order in which a page goes through them.

`names` (what tags, roles, classes and ids hint at), `walk` (a page as elements and blocks), `formulas` and `marks`
(what is made of formulas, powers and footnote marks on the way), `lines` (blocks that are lines of one text), `weight`
(where the mass of the page lies), `ends` (where its text begins and ends), `writing` (blocks as text).
"""
