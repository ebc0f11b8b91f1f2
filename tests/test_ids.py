import subprocess
import sys
import time

from app import ids
from app.contract.items import TYPES, derive_item_id, new_item_id, parse_derived_item_id


def test_ids_lie_in_the_order_of_the_seconds_they_were_made_in() -> None:
    before = int(time.time())
    prefix, _, digits = ids.new("resp").partition("_")
    assert (prefix, len(digits)) == ("resp", 48)
    assert before <= int(digits[:8], 16) <= time.time()


def test_a_derived_item_id_names_its_place_and_fits_into_64_characters() -> None:
    response_id = ids.new("resp")
    for position in (0, 15, 9_999):
        for kind in (*TYPES, "of_a_new_kind"):
            derived = derive_item_id(kind, response_id, position)
            assert parse_derived_item_id(derived) == (response_id, position)
            assert len(derived) <= 64


def test_a_random_item_id_is_never_taken_for_a_derived_one() -> None:
    assert parse_derived_item_id(new_item_id("message")) is None


def test_ids_do_not_repeat_within_a_process_nor_in_one_that_was_forked_from_it() -> None:
    fork = """
import os
from app import ids
from app.contract.items import TYPES, derive_item_id, new_item_id, parse_derived_item_id
for made in range(200):
    print(ids.new("resp"), ids.new_request_id(), flush=True)
if os.fork() == 0:
    print(ids.new("resp"), flush=True)
    os._exit(0)
os.wait()
print(ids.new("resp"), ids.new_request_id())
"""
    made = subprocess.run([sys.executable, "-c", fork], capture_output=True, text=True, check=True).stdout.split()
    assert len(made) == 403
    assert len({one[-32:] for one in made}) == len(made)
