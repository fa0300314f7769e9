#include <algorithm>
#include <string>

#include "base/error.h"
#include "load/plan.h"
#include "store/reservation.h"

// The part of a reservation that follows what it has claimed, span by span.

namespace sllm {
namespace {

// A range's spans: it starts with a whole one.
template <typename Visit>
void for_each_span(const FileRange& range, Visit visit) {
  for (std::uint64_t at = range.begin; at < range.end; at += kSpanBytes) {
    visit(FileRange{range.file, at, std::min(at + kSpanBytes, range.end)});
  }
}

std::string text_of(const FileRange& range) {
  return "bytes " + std::to_string(range.begin) + " to " + std::to_string(range.end) + " of file " +
         std::to_string(range.file);
}

}  // namespace

PartId Reservation::Impl::part_at(const FileRange& span) const {
  return {checkpoint, span.file, span.begin / state->pool.chunk_bytes()};
}

std::uint64_t Reservation::Impl::number_in_part(const FileRange& span) const {
  return span.begin % state->pool.chunk_bytes() / kSpanBytes;
}

std::vector<PartId> Reservation::Impl::begin_fill() {
  const std::lock_guard lock(state->mutex);
  return claims.begin_all();
}

void Reservation::Impl::fail_fill(std::span<const PartId> of) {
  {
    const std::lock_guard lock(state->mutex);
    for (const PartId& part : of) {
      if (claims.drop(part)) state->catalog.set_state(part, PartState::kPlaced);
    }
    ++state->failed_fills;
  }
  state->changes.note();
}

void Reservation::Impl::check_write_locked(const FileRange& range) const {
  const auto& files = state->catalog.find(checkpoint).files;
  const bool is_known = range.file < files.size() && range.end <= files[range.file].stored.bytes;
  if (is_known && range.begin % kSpanBytes == 0 &&
      (range.end % kSpanBytes == 0 || range.end == files[range.file].stored.bytes)) {
    return;
  }
  throw Error(ErrorCode::kInvalid, text_of(range) + " are not whole spans of it");
}

std::vector<WrittenSpan> Reservation::Impl::begin_write(const FileRange& range) {
  const std::lock_guard lock(state->mutex);
  check_write_locked(range);
  std::vector<WrittenSpan> begun;
  try {
    for_each_span(range, [&](const FileRange& span) { begin_span_locked(span, begun); });
  } catch (...) {
    for (const WrittenSpan& span : begun) {
      end_locked(part_at(span.range), claims.miss(part_at(span.range), number_in_part(span.range)));
    }
    throw;
  }
  return begun;
}

void Reservation::Impl::begin_span_locked(const FileRange& span, std::vector<WrittenSpan>& begun) {
  const PartId part = part_at(span);
  WrittenSpan written{.range = span, .pieces = {}, .crc = std::nullopt};
  state->append_pieces(part, span, written.pieces);
  const auto& crcs = state->catalog.find(checkpoint).files[span.file].stored.span_crcs;
  if (!crcs.empty()) written.crc = crcs[span.begin / kSpanBytes];
  begun.reserve(begun.size() + 1);
  switch (claims.begin(part, number_in_part(span))) {
    case Claims::Begun::kComing:
      begun.push_back(std::move(written));
      return;
    case Claims::Begun::kHasLanded:
      return;
    case Claims::Begun::kIsComing:
      throw Error(ErrorCode::kConflict, text_of(span) + " are being brought by another call");
    case Claims::Begun::kNotClaimed:
      throw Error(ErrorCode::kInvalid, text_of(span) + " are not claimed");
  }
}

void Reservation::Impl::end_spans(const FileRange& range, EndOfSpan end) {
  bool is_any = false;
  {
    const std::lock_guard lock(state->mutex);
    for_each_span(range, [&](const FileRange& span) {
      const PartId part = part_at(span);
      const Claims::Ended ended = (claims.*end)(part, number_in_part(span));
      end_locked(part, ended);
      is_any |= ended != Claims::Ended::kNothing;
    });
  }
  if (is_any) state->changes.note();
}

void Reservation::Impl::end_locked(PartId part, Claims::Ended ended) {
  if (ended == Claims::Ended::kNothing) return;
  if (ended == Claims::Ended::kGivenUp) {
    ++state->failed_fills;
    return state->catalog.set_state(part, PartState::kPlaced);
  }
  state->become_resident(part);
}

}  // namespace sllm
