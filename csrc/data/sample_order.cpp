#include "data/sample_order.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "data/content_hash.h"

namespace aspis::data {
namespace {

int64_t total_of(std::span<const int32_t> lengths) {
  return std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
}

// Sequence ids 0 .. count - 1, `epochs` times over, shuffled together.
std::vector<int32_t> shuffled_documents(int64_t count, int64_t epochs, NumpyShuffle& random) {
  std::vector<int32_t> ids(static_cast<size_t>(count * epochs));
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>(static_cast<int64_t>(i) % count);
  }
  random.shuffle(std::span(ids));
  return ids;
}

std::vector<MegatronOrder::Place> build_samples(std::span<const int32_t> lengths,
                                                const std::vector<int32_t>& documents,
                                                int64_t seq_len, int64_t samples) {
  std::vector<MegatronOrder::Place> places;
  places.reserve(static_cast<size_t>(samples + 1));
  int64_t document = 0, offset = 0;
  places.push_back({0, 0});
  for (int64_t sample = 0; sample < samples; ++sample) {
    int64_t remaining = seq_len + 1;
    while (true) {
      const int64_t left = lengths[static_cast<size_t>(documents[document])] - offset;
      if (left >= remaining) {
        // The last token of this sample is the first of the next.
        offset += remaining - 1;
        break;
      }
      remaining -= left;
      ++document;
      offset = 0;
    }
    places.push_back({document, offset});
  }
  return places;
}

}  // namespace

uint32_t NumpyShuffle::draw(uint32_t last) {
  // Smallest 2^k - 1 that is >= last.
  const uint32_t mask = std::numeric_limits<uint32_t>::max() >> std::countl_zero(last | 1u);
  while (true) {
    const auto value = static_cast<uint32_t>(generator_()) & mask;
    if (value <= last) return value;
  }
}

std::vector<int64_t> epoch_permutation(int64_t count, uint64_t seed, int64_t epoch) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::mt19937_64 generator(mix64(seed ^ mix64(static_cast<uint64_t>(epoch))));
  for (uint64_t i = order.size(); i-- > 1;) {
    const uint64_t mask = std::numeric_limits<uint64_t>::max() >> std::countl_zero(i);
    uint64_t j;
    do {
      j = generator() & mask;
    } while (j > i);
    std::swap(order[i], order[j]);
  }
  return order;
}

MegatronOrder megatron_order(std::span<const int32_t> lengths, int64_t seq_len, int64_t samples,
                             uint32_t seed) {
  const auto count = static_cast<int64_t>(lengths.size());
  const int64_t tokens = total_of(lengths);
  if (tokens < 1 || seq_len < 1 || samples < 1) {
    throw std::invalid_argument("megatron_order: needs tokens, a sequence length and samples");
  }
  MegatronOrder order;
  // Smallest number of epochs with epochs x tokens >= samples x seq_len + 1.
  order.epochs = (samples * seq_len + tokens) / tokens;
  if (count * order.epochs > std::numeric_limits<int32_t>::max()) {
    throw std::invalid_argument("megatron_order: 2^31 sequences and more over all epochs");
  }
  const int64_t built = (order.epochs * tokens - 1) / seq_len;
  int64_t before_last = built;  // samples of all epochs but the last
  if (order.epochs > 1) {
    before_last = ((order.epochs - 1) * tokens - 1) / seq_len;
    const int64_t per_epoch = (tokens - 1) / seq_len;
    // A last epoch of which little is used would otherwise be shown unevenly.
    order.separate_last_epoch =
        samples - before_last < static_cast<int64_t>(0.80 * static_cast<double>(per_epoch));
  }

  NumpyShuffle random(seed);
  if (order.separate_last_epoch) {
    order.document_index = shuffled_documents(count, order.epochs - 1, random);
    const std::vector<int32_t> last = shuffled_documents(count, 1, random);
    order.document_index.insert(order.document_index.end(), last.begin(), last.end());
  } else {
    order.document_index = shuffled_documents(count, order.epochs, random);
    before_last = built;
  }
  order.sample_index = build_samples(lengths, order.document_index, seq_len, built);
  order.shuffle_index.resize(static_cast<size_t>(built));
  std::iota(order.shuffle_index.begin(), order.shuffle_index.end(), int64_t{0});
  const std::span<int64_t> all(order.shuffle_index);
  random.shuffle(all.first(static_cast<size_t>(before_last)));
  if (before_last < built) random.shuffle(all.subspan(static_cast<size_t>(before_last)));
  return order;
}

int64_t blended_samples(int64_t samples, double share) {
  const double own = std::ceil(static_cast<double>(samples) * share);
  return static_cast<int64_t>(std::ceil(own * (1.0 + 0.005)));
}

Blend::Blend(std::vector<double> weights) : shares_(std::move(weights)), used_(shares_.size(), 0) {
  const double sum = std::accumulate(shares_.begin(), shares_.end(), 0.0);
  for (double& share : shares_) share /= sum;
}

Blend::Choice Blend::next() {
  const double step = std::max<double>(1.0, static_cast<double>(steps_));
  size_t best = 0;
  double largest = -std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < shares_.size(); ++i) {
    const double lag = shares_[i] * step - static_cast<double>(used_[i]);
    if (lag > largest) {
      largest = lag;
      best = i;
    }
  }
  ++steps_;
  return {static_cast<int64_t>(best), used_[best]++};
}

void Blend::restore(std::vector<int64_t> used) {
  used_ = std::move(used);
  steps_ = std::accumulate(used_.begin(), used_.end(), int64_t{0});
}

}  // namespace aspis::data
