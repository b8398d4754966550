"""Review by people (report §2.1, step 6): `page` draws samples of a corpus, `server` shows them and saves
judgements."""
