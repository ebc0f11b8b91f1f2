from app import ids


def test_a_response_id_is_recognised_only_as_it_was_made() -> None:
    made = ids.new("resp")
    assert ids.is_response_id(made)
    assert not ids.is_response_id(made.upper())
    assert not ids.is_response_id(made + "\n")
    assert not ids.is_response_id(made[:-1])


def test_a_derived_item_id_names_its_place_and_fits_into_64_characters() -> None:
    response_id = ids.new("resp")
    for position in (0, 15, 9_999):
        for kind in (*ids.ITEM_PREFIXES, "of_a_new_kind"):
            derived = ids.derive_item(kind, response_id, position)
            assert ids.parse_derived_item(derived) == (response_id, position)
            assert len(derived) <= 64


def test_a_random_item_id_is_never_taken_for_a_derived_one() -> None:
    assert ids.parse_derived_item(ids.new_item("message")) is None
