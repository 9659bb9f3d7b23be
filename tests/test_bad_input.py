"""Bad input, row by row, and the tests of each row.

Providers' answers: connections and bodies (P), their JSON (J); shared memory (S), clients (Z),
processes (X). A test's cases stand in brackets. Where a row can be read in two ways, the
design's is noted. Errors carry the words of `errors.Code`.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

UPSTREAM = "test_bad_upstream.py::test_answer"
CLOCKS = "test_bad_upstream.py::test_clocks"
BAD = "test_bad_answers.py::test_bad"
ODD = "test_bad_answers.py::test_odd_but_whole"
KEEP_ALIVES = (
    "providers/test_clocks.py::"
    "test_p13_p14_keep_alives_and_pieces_of_an_event_do_not_wind_the_idle_clock"
)
BROKEN = "test_bad_traffic.py::test_p07_p09_p10_what_breaks_off_unseen_is_sent_again"
LATER = "test_bad_traffic.py::test_p09_p10_what_breaks_off_after_it_was_seen_is_not_sent_again"
SILENT = "test_bad_traffic.py::test_p12_p13_p14_who_says_nothing_is_asked_again"
PASSING = "test_traffic.py::test_what_passes_is_tried_again_before_the_first_token"
HTTP1 = "providers/test_transport_http1.py::test_bad_responses_are_refused_at_any_cut"

# What is only one failure is told at once in the tests of `test_bad_upstream`; before a first token
# the daemon sends again what may pass (`test_bad_traffic`, `test_traffic`), and nobody else does.
PROVIDERS = {
    "P01": ["test_bad_upstream.py::test_way[nowhere/x]", "test_bad_upstream.py::test_way[label/x]"],
    "P02": ["test_bad_upstream.py::test_way[closed/x]"],
    "P03": [
        f"{CLOCKS}[P03-dropped-syn]",
        "providers/test_transport.py::test_dropped_syns_end_at_the_connect_clock",
    ],
    "P04": [
        "test_bad_upstream.py::test_p04_a_certificate_that_nobody_vouches_for",
        "test_bad_upstream.py::test_p04_a_certificate_that_has_expired",
        "providers/test_transport_tls.py::test_certificates_are_verified[P04-wrong-host]",
    ],
    "P05": [
        "test_bad_upstream.py::test_way[plain/x]",
        "test_bad_upstream.py::test_p05_a_peer_that_knows_sslv3_only",
    ],
    "P06": [
        f"{CLOCKS}[P06-no-handshake]",
        "providers/test_transport_tls.py::test_a_stalled_handshake_is_left",
    ],
    "P07": [
        f"{UPSTREAM}[before-all]",
        BROKEN,
        "providers/test_transport.py::test_a_stale_connection_is_replaced",
        "providers/test_pool.py::test_p07_a_close_before_any_byte_on_a_fresh_connection_is_left_to_others",
    ],
    "P08": [
        "test_bad_traffic.py::test_p08_of_a_dead_kept_connection_the_transport_makes_one_repetition",
        "providers/test_transport.py::test_a_stale_connection_costs_one_retry_and_no_more",
        "providers/test_pool.py::test_a_kept_connection_that_is_dead_gives_its_place_to_the_fresh_one",
    ],
    "P09": [
        f"{UPSTREAM}[P09-rst-]",
        BROKEN,
        LATER,
        "test_bad_upstream.py::test_cut_anywhere",
        "providers/test_transport.py::test_a_cut_answer_is_an_error",
    ],
    # Before the head is whole nothing is known of its framing: that is `transport`.
    "P10": [f"{UPSTREAM}[P10-fin-]", BROKEN, LATER, "test_bad_upstream.py::test_cut_anywhere"],
    # HTTP/1.1 only: a connection carries one stream, and nothing else is offered to a server.
    "P11": [
        "providers/test_transport_tls.py::test_a_verified_connection_speaks_http_1_1_and_is_kept"
    ],
    "P12": [
        f"{CLOCKS}[P12-no-head]",
        SILENT,
        "providers/test_clocks.py::test_p12_before_the_head_the_idle_clock_does_not_run",
    ],
    # One clock, `timeouts.idle_s` (300 by default), runs from event to event: neither bytes nor
    # comments nor pings wind it up. The text says which of them came.
    "P13": [
        f"{CLOCKS}[P13-head-drips]",
        f"{CLOCKS}[P13-body-drips]",
        SILENT,
        "providers/test_upstream.py::test_clocks",
        KEEP_ALIVES,
    ],
    "P14": [
        f"{CLOCKS}[P14-keep-alives]",
        f"{CLOCKS}[P14-pings]",
        SILENT,
        KEEP_ALIVES,
        "test_bad_answers_ring.py::test_p14_what_only_keeps_alive_is_not_written",
    ],
    "P15": [
        "test_bad_traffic.py::test_p15_of_3000_at_once_100_are_sent_the_queue_is_full_and_all_end",
        "test_traffic.py::test_a_full_queue_refuses_with_its_length",
        "providers/test_admission.py::test_p15_of_3000_requests_at_once_what_fits_goes_and_waits_and_is_refused",
        "providers/test_fair_queue.py::test_f3_a_waiting_request_has_its_bound_of_memory",
    ],
    "P16": [
        "test_bad_traffic.py::test_p16_who_is_cancelled_between_two_sendings_is_not_sent_again",
        "test_traffic.py::test_who_waits_can_be_cancelled_and_is_never_sent",
        "test_cancel.py::test_while_connecting",
        "providers/test_transport.py::test_cancel_while_connecting",
        "providers/test_pool.py::test_p16_a_cancel_while_connecting_closes_at_once",
    ],
    "P20": [
        f"{UPSTREAM}[P20-metadata]",
        f"{UPSTREAM}[P20-localhost]",
        f"{UPSTREAM}[P20-other-host]",
        f"{UPSTREAM}[P20-file]",
        "providers/test_transport.py::test_redirects_are_not_followed",
    ],
    # A host that says itself that it is private (`localhost`, a literal, `gpu.lan`) needs no leave,
    # a public name that leads inside does. Metadata are for credentials' code only.
    "P21": [
        "providers/test_addresses.py::test_p21_a_metadata_address_is_refused_where_it_is_configured",
        "providers/test_addresses.py::test_p21_a_server_of_ones_own_may_be_configured",
        "providers/test_addresses.py::test_p21_a_metadata_address_is_refused_by_whatever_name",
        "providers/test_addresses.py::test_p21_a_name_that_leads_inside_is_refused_before_connecting",
        "providers/test_addresses.py::test_p21_a_public_name_may_not_lead_inside",
    ],
    "P22": [f"{UPSTREAM}[P22-loop]"],
    "P23": [f"{UPSTREAM}[P23-long-header]", f"{UPSTREAM}[P23-endless-headers]"],
    "P24": [f"{UPSTREAM}[P24-many-headers]"],
    # Bytes above ASCII are allowed in a value (RFC 9110, 5.5), and escaped where they are shown.
    "P25": [
        f"{UPSTREAM}[P25-nul]",
        f"{UPSTREAM}[P25-cr]",
        f"{UPSTREAM}[P25-escape]",
        f"{UPSTREAM}[P25-not-ascii]",
    ],
    "P26": [f"{UPSTREAM}[P26-no-http]", f"{UPSTREAM}[P26-http-0.9]"],
    # The code is `http_status`, and the number stands in `status`.
    "P27": [
        f"{UPSTREAM}[P27-999]",
        f"{UPSTREAM}[P27-099]",
        "test_bad_upstream.py::test_odd_but_whole[P27-100s]",
        f"{HTTP1}[P27-1xx-flood]",
    ],
    "P28": [f"{UPSTREAM}[P28-204]", f"{UPSTREAM}[P28-205]", f"{UPSTREAM}[P28-304]"],
    "P29": [
        "test_bad_upstream.py::test_odd_but_whole[P29-text-plain]",
        "test_bad_upstream.py::test_odd_but_whole[P29-octets]",
        "test_bad_upstream.py::test_odd_but_whole[P29-no-type]",
        f"{UPSTREAM}[P29-no-type-no-events]",
    ],
    "P30": [
        "test_bad_upstream.py::test_odd_but_whole[P30-other-charset]",
        "test_bad_upstream.py::test_p30_whatever_the_charset_it_is_utf_8",
    ],
    "P31": [
        f"{UPSTREAM}[P31-json-error]",
        f"{UPSTREAM}[P31-json-error-as-events]",
        f"{UPSTREAM}[P31-html]",
        f"{UPSTREAM}[P31-html-long]",
        f"{UPSTREAM}[P31-empty]",
    ],
    "P32": [
        f"{UPSTREAM}[P32-endless]",
        f"{UPSTREAM}[P32-five-megabytes]",
        "providers/test_transport.py::test_an_endless_error_body_is_left_by_closing",
    ],
    "P33": [
        f"{UPSTREAM}[P33-openai]",
        f"{UPSTREAM}[P33-other-shape]",
        f"{UPSTREAM}[P33-deep]",
        f"{UPSTREAM}[P33-empty]",
        f"{UPSTREAM}[P33-html]",
        f"{UPSTREAM}[P33-utf8]",
        "providers/test_body.py::test_http_errors_never_raise",
    ],
    "P34": [
        f"{UPSTREAM}[P34-401-key-echoed]",
        f"{UPSTREAM}[P34-403-key-in-plain-text]",
        f"{UPSTREAM}[P34-500-key-in-html]",
        "providers/test_body.py::test_keys_are_masked",
    ],
    # Nothing is ever decompressed: identity is asked for, and all else is `bad_encoding`.
    "P35": [f"{UPSTREAM}[P35-bomb]", f"{UPSTREAM}[P33-compressed]"],
    "P36": [
        f"{UPSTREAM}[P36-no-gzip]",
        f"{UPSTREAM}[P36-plain]",
        f"{UPSTREAM}[P36-truncated]",
    ],
    "P37": [f"{UPSTREAM}[P37-br]", f"{UPSTREAM}[P37-zstd]", f"{UPSTREAM}[P37-twice]"],
    "P38": [
        f"{UPSTREAM}[P38-bad-size]",
        f"{UPSTREAM}[P38-size-2^70]",
        f"{CLOCKS}[P38-size-2^60]",
        f"{UPSTREAM}[P38-no-crlf]",
        f"{UPSTREAM}[P38-extension]",
        "test_bad_upstream.py::test_odd_but_whole[P38-1-byte-chunks]",
        HTTP1,
    ],
    "P39": [
        "test_bad_upstream.py::test_odd_but_whole[P39-length-and-chunked]",
        f"{UPSTREAM}[P39-two-lengths]",
        "providers/test_transport_http1.py::test_both_framings_are_read_as_chunked_and_end_the_connection",
    ],
    "P40": [
        "test_bad_upstream.py::test_odd_but_whole[P40-over-length]",
        "providers/test_transport_http1.py::test_bytes_after_the_message_are_not_parsed",
    ],
    "P41": [
        "test_bad_upstream.py::test_odd_but_whole[P41-trailer]",
        "providers/test_transport_http1.py::test_trailers_are_ignored",
    ],
    "P42": [
        "test_bad_traffic.py::test_p42_a_refusal_without_a_hint_is_waited_for",
        "providers/test_retry.py::test_pauses_double_up_to_the_longest",
        "providers/test_retry.py::test_a_limit_without_a_hint_ends_rate_limited",
    ],
    "P43": [
        "test_traffic.py::test_a_provider_that_asks_for_ten_years_is_not_waited_for",
        "providers/test_retry.py::test_how_long_a_provider_may_ask_to_wait",
        "providers/test_retry.py::test_no_hint_makes_a_pause_shorter_than_the_least",
        "providers/test_retry_hints.py::test_retry_after",
        "providers/test_retry_hints.py::test_which_header_counts",
    ],
    "P44": [
        "test_bad_traffic.py::test_p44_figures_that_nobody_understands_are_counted_and_change_nothing",
        "providers/test_rate_headers.py::test_p44_bad_values_are_ignored_and_counted",
        "providers/test_rate_headers.py::test_p44_a_bad_limit_tells_nothing_else",
        "providers/test_rate_headers.py::test_p44_nothing_a_head_may_say_is_an_error",
    ],
    "P45": [
        f"{PASSING}[503]",
        f"{PASSING}[529]",
        f"{PASSING}[408]",
        f"{PASSING}[409]",
        "test_traffic.py::test_nothing_is_sent_again_once_a_token_was_seen",
        "providers/test_failure.py::test_statuses",
        "providers/test_failure.py::test_passing_faults_keep_their_hint",
    ],
    "P46": [
        "test_traffic.py::test_a_provider_that_fails_is_left_alone_and_tried_by_one_request",
        "providers/test_breaker.py::test_an_hour_of_failures_asks_once_a_minute_and_refuses_at_once",
        "providers/test_breaker.py::test_a_refusal_tells_the_time_of_the_next_probe",
        "providers/test_breaker.py::test_one_of_a_thousand_callers_is_the_probe",
    ],
    "P50": [
        f"{BAD}[P50-endless-line]",
        f"{BAD}[P50-line-in-1-byte-chunks]",
        "test_bad_answers.py::test_floods_are_not_kept",
        "providers/test_framer.py::test_a_long_line_in_single_bytes_takes_linear_time",
        "providers/test_sse.py::test_a_long_line_in_single_bytes_takes_linear_time",
    ],
    "P51": [
        f"{BAD}[P51-endless-event]",
        f"{BAD}[P51-many-data-lines]",
        "test_bad_answers.py::test_floods_are_not_kept",
    ],
    "P52": [
        f"{CLOCKS}[P52-comment]",
        f"{CLOCKS}[P52-unknown-field]",
        f"{ODD}[P52-comment]",
        f"{ODD}[P52-unknown-field]",
        "providers/test_framer.py::test_endless_comments_and_unknown_fields_are_not_stored",
    ],
    "P53": [f"{ODD}[P53-blank-lines]", f"{ODD}[P53-events-without-data]"],
    "P54": [
        f"{ODD}[P54-empty-events]",
        "providers/test_body.py::test_each_leniency_is_counted",
    ],
    "P55": [
        "test_bad_answers_ring.py::test_p55_every_vector_at_random_places_of_the_ring",
        "providers/test_sse.py::test_vector_at_every_kind_of_cut",
        "providers/test_body.py::test_lenient_vector_at_every_kind_of_cut",
    ],
    "P56": ["test_bad_answers_ring.py::test_p56_the_same_tokens_wherever_the_ring_wraps"],
    "P57": [
        f"{ODD}[P57-after-done]",
        f"{ODD}[P57-after-message-stop]",
        "test_bad_answers.py::test_floods_are_not_kept",
        "providers/test_upstream.py::test_after_the_terminal_token_without_end",
    ],
    "P58": [
        f"{ODD}[P58-two-dones]",
        f"{ODD}[P58-two-message-stops]",
        f"{ODD}[P58-content-behind-the-reason]",
    ],
    "P59": [
        f"{BAD}[P59-object]",
        f"{BAD}[P59-string]",
        f"{BAD}[P59-number]",
        f"{BAD}[P59-nested]",
        f"{BAD}[P59-html]",
        f"{BAD}[P59-in-data]",
        f"{ODD}[P59-null]",
        "providers/test_body.py::test_any_error_but_null_ends_the_stream",
    ],
    "P60": [
        "providers/test_eventstream.py::test_vectors",
        "providers/test_eventstream.py::test_the_thousandth_message_is_bad",
        "providers/test_eventstream.py::test_four_gigabytes_are_refused_by_the_prelude",
        "providers/test_eventstream.py::test_a_cut_message_is_an_error_but_not_the_reason_of_another",
    ],
    # It is read as the answer that it is.
    "P61": [f"{ODD}[P61-array]", f"{BAD}[P61-array-cut-off]"],
}

EVENTS = "test_bad_answers_events.py"
ANYWHERE = "providers/test_hostile_json.py::test_a_hostile_value_anywhere_in_a_stream"
TOKENS = {
    # `data:` with nothing behind it is no event at all.
    "J01": [
        f"{EVENTS}::test_j01_what_is_no_json",
        f"{EVENTS}::test_j01_no_more_than_80_characters_are_shown",
        f"{EVENTS}::test_j01_nothing_is_no_event",
        f"{BAD}[J01-no-json]",
        f"{BAD}[J01-two-objects]",
    ],
    "J02": [
        f"{EVENTS}::test_j02_nesting_in_a_field_that_nobody_reads",
        f"{BAD}[J02-arrays]",
        f"{BAD}[J02-objects]",
        ANYWHERE,
    ],
    # U+FFFD, also in an answer of one piece.
    "J03": [
        f"{EVENTS}::test_j03_bytes_that_are_no_utf_8",
        f"{EVENTS}::test_j03_bytes_that_are_no_utf_8_in_an_answer_of_one_piece",
        f"{ODD}[J03-utf-8]",
    ],
    "J04": [f"{EVENTS}::test_j04_half_an_emoji_each", f"{ODD}[J04-half-an-emoji-each]"],
    "J05": [f"{EVENTS}::test_j05_of_two_fields_of_one_name_the_last_counts"],
    # In a field that nobody reads 1e999 is not looked at.
    "J06": [
        f"{EVENTS}::test_j06_numbers_that_json_has_not",
        "providers/test_openai_wire.py::test_bad_events_keep_the_text_and_say_where",
    ],
    # A count that nobody can carry is null.
    "J07": [
        f"{EVENTS}::test_j07_j08_numbers_that_nobody_needs",
        "providers/test_openai_wire.py::test_usage_with_thousands_of_digits_leaves_the_stream_alone",
        "providers/test_hostile_json.py::test_integers_that_nobody_can_carry_become_null",
    ],
    "J08": [
        f"{EVENTS}::test_j07_j08_numbers_that_nobody_needs",
        "providers/test_openai_wire.py::test_usage_is_read_leniently",
        "providers/test_openai_wire.py::test_index_as_servers_write_it",
    ],
    # Content that is neither text nor a list of parts says nothing.
    "J09": [
        "providers/test_openai_wire.py::test_what_says_nothing_gives_no_token",
        f"{BAD}[J09-many-choices]",
    ],
    "J10": [
        "providers/test_openai_wire.py::test_bad_events_keep_the_text_and_say_where",
        f"{BAD}[J10-choice-index]",
    ],
    "J11": ["providers/test_openai_wire.py::test_tool_calls", f"{BAD}[J11-call-index]"],
    "J12": [
        f"{BAD}[J12-many-calls]",
        f"{BAD}[J12-long-arguments]",
        "test_bad_answers.py::test_floods_are_not_kept",
    ],
    # `Done.arguments_valid`.
    "J13": [
        f"{EVENTS}::test_j13_whether_arguments_became_json",
        f"{EVENTS}::test_j13_is_what_joining_says",
        f"{EVENTS}::test_j13_with_a_new_worker_at_every_event",
        f"{EVENTS}::test_j13_in_other_dialects",
        f"{EVENTS}::test_j13_what_a_custom_tool_is_given_need_not_be_json",
        "providers/test_openai_wire.py::test_tool_calls",
        "providers/test_json_text.py::test_json_with_a_fault",
        "test_bad_answers.py::test_j13_arguments_that_never_become_json",
    ],
    "J14": [f"{EVENTS}::test_j14_names_of_tools"],
    "J15": [
        f"{ODD}[J15-a-megabyte-at-once]",
        "test_end_to_end.py::test_a_text_larger_than_the_ring",
        "workers/test_stage.py::test_a_long_text_is_split",
    ],
    "J16": [
        f"{EVENTS}::test_j16_a_hundred_thousand_empty_pieces",
        f"{ODD}[J16-empty-deltas]",
        f"{ODD}[J16-one-character-each]",
        "workers/test_stage.py::test_silent_bytes_are_told_for_credit",
    ],
    "J17": [
        f"{EVENTS}::test_j17_scores_that_cannot_be_read",
        "providers/test_openai_wire.py::test_unreadable_logprobs_are_dropped_and_counted",
        "providers/test_openai_wire.py::test_completions_drop_scores_that_do_not_match_their_tokens",
    ],
    # "other", and the provider's own word in `provider_reason`.
    "J18": [f"{EVENTS}::test_j18_finish_reasons_that_nobody_knows"],
    "J19": [
        "providers/test_openai_wire.py::test_usage_is_read_leniently",
        "providers/test_openai_wire.py::test_usage_is_merged_and_told_at_once",
    ],
    "J20": [
        "providers/test_anthropic_wire.py::test_wrong_order_unknown_types_and_early_deltas_are_tolerated",
        "providers/test_anthropic_wire.py::test_bad_events",
    ],
    "J21": [
        f"{EVENTS}::test_j21_text_is_data",
        f"{ODD}[J21-controls]",
        f"{UPSTREAM}[P33-html]",
    ],
    # The engine has no backtracking: time is linear, and no limit is needed.
    "J22": [
        "workers/test_content_filter.py::test_hostile_patterns_and_texts_take_linear_time",
        "workers/test_content_filter.py::test_what_is_held_back_is_bounded",
    ],
    "J23": [
        "workers/test_token_count.py::test_special_tokens_in_text_are_text",
        "workers/test_token_count.py::test_a_megabyte_without_a_place_to_cut",
        "workers/test_token_count.py::test_beyond_the_most_it_is_guessed",
    ],
    "J24": [
        "test_questions.py::test_ten_thousand_models_with_two_names",
        "test_questions.py::test_a_provider_that_does_not_tell",
    ],
}

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

ROWS = PROVIDERS | TOKENS | SHARED_MEMORY | CLIENTS | PROCESSES
NUMBERS = {
    "P": [*range(1, 17), *range(20, 47), *range(50, 62)],
    "J": range(1, 25),
    "S": range(1, 24),
    "Z": range(1, 32),
    "X": range(1, 9),
}


@cache
def functions_of(path: Path) -> set[str]:
    """The names of a file's test functions."""
    tree = ast.parse(path.read_text())
    found = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, found)}


@cache
def literals_of(path: Path) -> set[str]:
    """The text constants of a file, pieces of f-strings among them."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {
        node.value for node in nodes if isinstance(node, ast.Constant) and type(node.value) is str
    }


def test_every_row_has_its_place() -> None:
    wanted = {f"{letter}{n:02}" for letter, numbers in NUMBERS.items() for n in numbers}
    assert ROWS.keys() == wanted
    assert all(ROWS.values())


@pytest.mark.parametrize("row", ROWS)
def test_the_tests_of_a_row_exist(row: str) -> None:
    for named in ROWS[row]:
        file, _, test = named.partition("::")
        name, _, case = test.removesuffix("]").partition("[")
        assert name.startswith("test_")
        assert name in functions_of(TESTS / file), named
        assert not case or case in literals_of(TESTS / file), named
