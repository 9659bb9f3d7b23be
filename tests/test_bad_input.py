"""Bad input, row by row: shared memory (S), clients (Z), processes (X), and the tests of each.

Where a row can be read in two ways, the design's is noted. Errors carry the words of
`errors.Code`, and `ring_corrupt` and `flood`.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

SHARED_MEMORY = {
    "S01": ["shm/test_layout.py::test_r1_magic"],
    "S02": ["shm/test_layout.py::test_r1_both_versions_are_named"],
    "S03": ["shm/test_layout.py::test_r3_capacity"],
    "S04": [
        "shm/test_bad_rings.py::test_s04_a_reader_of_a_ring_that_was_cut_off_dies_of_sigbus",
        "shm/test_bad_rings.py::test_s04_s14_a_live_ring_is_cut_off_or_unlinked",
    ],
    "S05": ["shm/test_segment.py::test_a_shared_memory_too_small_is_named_at_start"],
    # An in-ring's streams end with `interrupted`, or are asked again: its provider process is
    # replaced with it.
    "S06": [
        "shm/test_layout.py::test_r3_contradictory_positions",
        "shm/test_ring.py::test_r3_an_impossible_tail_is_not_believed",
        "shm/test_ring.py::test_r3_an_impossible_released_is_not_believed",
        "shm/test_bad_rings.py::test_s06_s08_an_out_ring_is_written_over",
        "shm/test_bad_rings.py::test_s06_s08_an_in_ring_is_written_over",
    ],
    "S07": [
        "shm/test_ring_killed.py::test_r10_a_producer_killed_at_each_store",
        "ops/test_supervisor.py::test_a_killed_process_is_replaced_and_its_streams_go_on",
    ],
    "S08": [
        "shm/test_layout.py::test_r4_an_impossible_size_is_refused",
        "shm/test_layout.py::test_r5_a_record_that_never_comes_is_an_error_in_the_end",
        "shm/test_bad_rings.py::test_s06_s08_an_out_ring_is_written_over",
    ],
    # There is no checksum: a frame's check is its position, and where that is wrong nothing
    # behind it can be found. A flipped bit in a payload is passed on as it is.
    "S09": ["shm/test_bad_rings.py::test_s09_a_frame_out_of_sequence_poisons_its_ring"],
    "S10": ["shm/test_layout.py::test_flipped_bits_are_refused_or_harmless"],
    "S11": [
        "ops/test_supervisor.py::test_a_killed_supervisor_takes_all_with_it_and_the_next_start_sweeps"
    ],
    "S12": ["shm/test_segment.py::test_attaching_refuses_what_is_not_ours"],
    "S13": ["shm/test_segment.py::test_r15_an_existing_name_is_never_opened"],
    # A successor finds no name, so the supervisor makes another ring.
    "S14": [
        "shm/test_segment.py::test_an_unlinked_segment_stays_usable",
        "shm/test_bad_rings.py::test_s04_s14_a_live_ring_is_cut_off_or_unlinked",
    ],
    "S15": [
        "shm/test_segment.py::test_a_foreign_process_that_attaches_and_exits_takes_nothing_away"
    ],
    "S16": ["shm/test_segment.py::test_closing_under_live_views_says_so_and_can_be_repeated"],
    "S17": [
        "shm/test_ring.py::test_r8_release_refuses_while_a_lease_is_open",
        "shm/test_bad_rings.py::test_s17_what_was_sent_does_not_change_when_its_bytes_are_used_again",
    ],
    "S18": [
        "shm/test_ring_killed.py::test_r11_a_consumer_killed_at_each_store",
        "shm/test_bad_rings.py::test_s18_s19_a_reader_that_stands_still",
    ],
    "S19": ["shm/test_bad_rings.py::test_s18_s19_a_reader_that_stands_still"],
    "S20": [
        "test_end_to_end.py::test_a_text_larger_than_the_ring",
        "test_follow_one_token.py::test_an_event_larger_than_every_ring",
    ],
    # The second is let in, and the first finds itself fenced: a successor must not depend on
    # anything that a dead producer has left.
    "S21": [
        "shm/test_bad_rings.py::test_s21_of_two_producers_the_first_stops",
        "shm/test_ring.py::test_r10_r12_a_fenced_producer_stops",
    ],
    "S22": ["shm/test_bad_rings.py::test_s22_no_process_has_a_ring_that_is_not_its_own"],
    "S23": [
        "shm/test_segment.py::test_cycles_leave_nothing_behind",
        "ops/test_supervisor.py::test_a_killed_supervisor_takes_all_with_it_and_the_next_start_sweeps",
    ],
}

CLIENTS = {
    "Z01": [
        "broker/test_bad_clients.py::test_z01_bytes_that_are_no_zmtp",
        "broker/test_bad_clients.py::test_z01_messages_that_are_no_reports",
    ],
    # A ROUTER cannot hang up on a peer: what is over the rate is counted and not answered.
    "Z02": [
        "broker/test_protocol.py::test_fifty_parts",
        "broker/test_bad_clients.py::test_z02_a_flood_of_bad_messages_has_few_answers",
    ],
    "Z03": ["broker/test_protocol.py::test_hello_first"],
    "Z04": ["broker/test_protocol.py::test_frames_of_the_future"],
    "Z05": ["broker/test_protocol.py::test_too_large"],
    "Z06": ["broker/test_bad_clients.py::test_z06_a_hundred_thousand_parts"],
    "Z07": ["broker/test_protocol.py::test_garbage"],
    # Credit is a position and no sum, so it cannot overflow; a window over 16 MiB is 16 MiB.
    "Z08": [
        "broker/test_bad_clients.py::test_z08_credit_of_every_wrong_kind",
        "broker/test_bad_clients.py::test_z08_windows_of_any_size",
    ],
    # The first reader pays: it slows its own stream and is not dropped. Others are cut off
    # with `slow_consumer`.
    "Z09": [
        "test_cancel.py::test_a_client_that_stops_reading",
        "test_end_to_end.py::test_who_reads_too_slowly",
    ],
    "Z10": [
        "broker/test_sessions.py::test_readers_have_windows_of_their_own",
        "test_end_to_end.py::test_who_reads_too_slowly",
    ],
    "Z11": [
        "broker/test_bad_clients.py::test_z11_a_peers_messages_are_counted_by_the_second",
        "broker/test_bad_clients.py::test_z11_a_flood_is_cut_off_and_nobody_else_waits",
    ],
    # Credit and detach for a handle that is gone have crossed its end: they are ignored.
    "Z12": [
        "broker/test_protocol.py::test_what_is_refused",
        "broker/test_bad_clients.py::test_z12_what_is_unknown_leaves_no_trace",
    ],
    # Any process of the same user may read a stream whose 128-bit id it knows; `forbidden`
    # does not exist.
    "Z13": [
        "broker/test_bad_clients.py::test_z13_an_id_is_what_lets_a_process_of_the_same_user_in",
        "broker/test_gate.py::test_a_peer_is_asked_about",
    ],
    "Z14": ["broker/test_bad_clients.py::test_z14_two_peers_of_one_identity"],
    "Z15": ["broker/test_bad_clients.py::test_z15_identities"],
    "Z16": [
        "broker/test_bad_clients.py::test_z16_offsets",
        "broker/test_sessions.py::test_an_old_offset_is_gone_and_a_late_reader_is_cut_off",
    ],
    "Z17": ["broker/test_bad_clients.py::test_z17_replays_of_a_long_history"],
    "Z18": ["broker/test_bad_clients.py::test_z18_asking_twice_is_asking_once"],
    "Z19": [
        "test_cancel.py::test_while_connecting",
        "test_cancel.py::test_after_the_end",
        "test_cancel.py::test_twice_and_by_somebody_else",
    ],
    "Z20": [
        "broker/test_protocol.py::test_limits_of_clients_and_streams",
        "broker/test_bad_clients.py::test_z20_a_thousand_clients_at_once",
    ],
    # After three heartbeats, not two.
    "Z21": [
        "broker/test_bad_clients.py::test_z21_a_client_that_is_gone",
        "test_cancel.py::test_the_lease_ends",
    ],
    "Z22": ["test_cancel.py::test_second_reader_from_anywhere"],
    "Z23": ["broker/test_bad_clients.py::test_z23_connections_that_come_and_go"],
    "Z24": ["test_bad_processes.py::test_z24_the_broker_is_killed_under_a_hundred_clients"],
    "Z25": ["broker/test_bad_clients.py::test_z21_a_client_that_is_gone"],
    "Z26": ["test_bad_processes.py::test_z26_an_end_with_messages_that_nobody_takes"],
    "Z27": ["broker/test_bad_clients.py::test_z27_a_client_that_asks_and_never_listens"],
    "Z28": [
        "ops/test_rundir.py::test_what_lies_where_a_socket_belongs_is_refused",
        "ops/test_rundir.py::test_open_to_others_is_refused",
        "ops/test_rundir.py::test_a_long_path_is_refused_before_anything_is_made",
        "test_end_to_end.py::test_nobody_else_may_look",
    ],
    # The code is `bad_request`; over four times the limit libzmq drops the connection.
    "Z29": [
        "broker/test_bad_clients.py::test_z29_a_request_over_its_limit",
        "broker/test_protocol.py::test_too_large",
    ],
    "Z30": [
        "test_bad_upstream.py::test_refused_before_it_is_a_stream",
        "test_bad_upstream.py::test_bad_request",
        "broker/test_bad_clients.py::test_z30_z31_requests_that_are_not_sent",
    ],
    "Z31": ["broker/test_bad_clients.py::test_z30_z31_requests_that_are_not_sent"],
}

PROCESSES = {
    "X01": ["test_bad_processes.py::test_x01_each_is_killed_in_its_turn_under_load"],
    "X02": ["test_follow_one_token.py::test_poison_ends_its_stream_and_no_other"],
    "X03": ["ops/test_supervisor.py::test_a_process_that_hangs_is_killed_and_its_streams_go_on"],
    "X04": ["test_bad_processes.py::test_x04_a_worker_without_memory_is_replaced"],
    "X05": [
        "test_bad_processes.py::test_x05_an_end_under_a_hundred_streams",
        "ops/test_supervisor.py::test_a_second_signal_ends_at_once",
    ],
    "X06": [
        "test_bad_processes.py::test_x06_each_is_stopped_for_a_while",
        "ops/test_supervisor.py::test_a_stopped_process_goes_on_when_it_may",
    ],
    "X07": ["ops/test_supervisor.py::test_signals_that_are_not_for_us_change_nothing"],
    # The code is `connect_failed`; a client that finds the door shut tries again.
    "X08": [
        "test_bad_processes.py::test_x08_too_few_descriptors_to_begin_with",
        "test_bad_processes.py::test_x08_descriptors_that_run_out",
    ],
}

ROWS = SHARED_MEMORY | CLIENTS | PROCESSES
COUNTS = {"S": 23, "Z": 31, "X": 8}


def functions_of(path: Path) -> set[str]:
    """The names of a file's test functions."""
    tree = ast.parse(path.read_text())
    found = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, found)}


def test_every_row_has_its_place() -> None:
    wanted = {f"{letter}{n:02}" for letter, count in COUNTS.items() for n in range(1, count + 1)}
    assert ROWS.keys() == wanted
    assert all(ROWS.values())


@pytest.mark.parametrize("row", ROWS)
def test_the_tests_of_a_row_exist(row: str) -> None:
    for named in ROWS[row]:
        file, _, name = named.partition("::")
        assert name.startswith("test_")
        assert name in functions_of(TESTS / file), named
