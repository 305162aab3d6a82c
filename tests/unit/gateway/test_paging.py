"""Tokens of pages: good for the list that issued them, and for nothing else."""

import base64

from neurogate_gateway.rpc.paging import Pages
from neurogate_testing.refusals import refused

PAGES = Pages("examples", default=50, max_size=500)


def test_a_token_leads_below_the_last_entry_of_the_same_filter():
    token = PAGES.token(b"filter", 2**63 - 1)
    assert PAGES.below(b"filter", token) == 2**63 - 1
    assert PAGES.below(b"filter", "") is None
    with refused("PAGE_INVALID", match="another filter"):
        PAGES.below(b"other", token)


def test_a_number_that_no_database_holds_is_no_token():
    good = base64.urlsafe_b64decode(PAGES.token(b"", 1))
    forged = base64.urlsafe_b64encode(good[:-1] + b"9223372036854775808").decode()
    with refused("PAGE_INVALID", match="not issued"):
        PAGES.below(b"", forged)
