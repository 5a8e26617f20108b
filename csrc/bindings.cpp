// Every operation's schema, checks and call: the one file that knows torch (stable ABI only).
//
// Compiled once per device: -DUSE_CUDA makes the library for CUDA, otherwise that for CPUs. The
// two register in namespaces of their own (astra_cpu, astra_cuda), so a process may load both.
#include <algorithm>
#include <unordered_set>
#include <vector>

#include "checks.h"
#include "launch.h"

namespace {

using namespace astra;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

constexpr int64_t kMaxBlockSize = 256;

// What query, out and the two caches have in common in all three attentions.
AttentionArguments attention_arguments(const Tensor& out, const Tensor& query, const Tensor& keys,
                                       const Tensor& values, const Tensor& context_lens) {
  check_dims(query, "query", 3);
  check_dims(keys, "key_cache", 4);
  check_same_shape(out, "out", query, "query");
  check_same_shape(values, "value_cache", keys, "key_cache");
  for (const Tensor* tensor : {&out, &keys, &values}) check_same_kind(*tensor, query);
  check_dense(query, "query", 2);
  check_dense(out, "out", 2);
  check_dense(keys, "key_cache", 2);
  check_dense(values, "value_cache", 2);
  check_integers(context_lens, "context_lens", query, 1);
  const int64_t num_heads = query.size(1), num_kv_heads = keys.size(1);
  STD_TORCH_CHECK(keys.size(3) == query.size(2), "head size of query is ", query.size(2),
                  " but of key_cache ", keys.size(3));
  STD_TORCH_CHECK(num_kv_heads > 0 && num_heads % num_kv_heads == 0, num_heads,
                  " query heads do not divide into ", num_kv_heads, " key/value heads");
  for (int64_t d : {0, 1}) {
    STD_TORCH_CHECK(keys.stride(d) == values.stride(d), "stride ", d, " of key_cache is ",
                    keys.stride(d), " but of value_cache ", values.stride(d));
  }
  AttentionArguments a{};
  a.dtype = data_type(query);
  a.out = out.data_ptr();
  a.query = query.data_ptr();
  a.key_cache = keys.data_ptr();
  a.value_cache = values.data_ptr();
  a.context_lens = static_cast<const int32_t*>(context_lens.data_ptr());
  a.num_seqs = static_cast<int>(context_lens.size(0));
  a.num_heads = static_cast<int>(num_heads);
  a.num_kv_heads = static_cast<int>(num_kv_heads);
  a.head_size = static_cast<int>(query.size(2));
  a.block_size = static_cast<int>(keys.size(2));
  a.out_stride = out.stride(0);
  a.query_stride = query.stride(0);
  a.block_stride = keys.stride(0);
  a.head_stride = keys.stride(1);
  check_vectors(a.query, "query", a.query_stride, a.head_size, query.element_size());
  check_vectors(a.key_cache, "key_cache", a.block_stride, a.head_stride, query.element_size());
  check_vectors(a.value_cache, "value_cache", a.block_stride, a.head_stride, query.element_size());
  return a;
}

void add_block_tables(AttentionArguments& a, const Tensor& tables, const Tensor& query) {
  check_integers(tables, "block_tables", query, 2);
  STD_TORCH_CHECK(tables.size(0) == a.num_seqs, "block_tables has ", tables.size(0),
                  " rows for ", a.num_seqs, " context lengths");
  STD_TORCH_CHECK(a.block_size >= 1 && a.block_size <= kMaxBlockSize,
                  "block size must be from 1 to ", kMaxBlockSize, ", got ", a.block_size);
  a.block_tables = static_cast<const int32_t*>(tables.data_ptr());
  a.table_stride = tables.stride(0);
}

using Workspace = int64_t (*)(const AttentionArguments&, const Launch&);
using Kernel = Status (*)(const AttentionArguments&, float*, const Launch&);

void run_attention(const char* name, Kernel kernel, Workspace workspace_floats,
                   const AttentionArguments& a, const Tensor& query) {
  if (query.numel() == 0) return;
  const LaunchScope scope(query);
  const int64_t floats = workspace_floats(a, scope.launch);
  const auto workspace =
      torch::stable::new_empty(query, {floats}, torch::headeronly::ScalarType::Float);
  const Status status = kernel(a, static_cast<float*>(workspace.data_ptr()), scope.launch);
  STD_TORCH_CHECK(status != kUnsupported, name, " has no ", kDeviceName, " kernel for ",
                  data_type_name(a.dtype), " with head size ", a.head_size,
                  " (head sizes: 64, 80, 96, 128, 256; ", kDataTypes, ")");
  check_done(status, name);
}

void paged_attention(const Tensor& out, const Tensor& query, const Tensor& key_cache,
                     const Tensor& value_cache, const Tensor& block_tables,
                     const Tensor& context_lens, double scale, int64_t max_context_len) {
  auto a = attention_arguments(out, query, key_cache, value_cache, context_lens);
  add_block_tables(a, block_tables, query);
  check_count(query.size(0), a.num_seqs, "queries", "context lengths");
  a.scale = static_cast<float>(scale);
  a.max_context_len = static_cast<int>(max_context_len);
  check_contexts(a, block_tables.size(1) * a.block_size, key_cache.size(0));
  run_attention("paged_attention", launch_decode_attention, decode_attention_workspace, a, query);
}

void contiguous_attention(const Tensor& out, const Tensor& query, const Tensor& key_cache,
                          const Tensor& value_cache, const MaybeTensor& start_offsets,
                          const Tensor& context_lens, double scale, int64_t max_context_len) {
  auto a = attention_arguments(out, query, key_cache, value_cache, context_lens);
  check_count(query.size(0), a.num_seqs, "queries", "context lengths");
  check_count(key_cache.size(0), a.num_seqs, "rows of key_cache", "context lengths");
  if (start_offsets) {
    check_integers(*start_offsets, "start_offsets", query, 1);
    check_count(start_offsets->size(0), a.num_seqs, "start offsets", "context lengths");
    a.start_offsets = static_cast<const int32_t*>(start_offsets->data_ptr());
  }
  a.scale = static_cast<float>(scale);
  a.max_context_len = static_cast<int>(max_context_len);
  check_contexts(a, a.block_size, key_cache.size(0));
  run_attention("contiguous_attention", launch_decode_attention, decode_attention_workspace, a,
                query);
}

void prefix_attention(const Tensor& out, const Tensor& query, const Tensor& key_cache,
                      const Tensor& value_cache, const Tensor& block_tables,
                      const Tensor& context_lens, const Tensor& query_starts, double scale,
                      int64_t max_query_len, int64_t max_context_len) {
  auto a = attention_arguments(out, query, key_cache, value_cache, context_lens);
  add_block_tables(a, block_tables, query);
  check_integers(query_starts, "query_starts", query, 1);
  check_count(query_starts.size(0), a.num_seqs + 1, "query starts", "context lengths plus one");
  a.query_starts = static_cast<const int32_t*>(query_starts.data_ptr());
  a.scale = static_cast<float>(scale);
  a.max_query_len = static_cast<int>(max_query_len);
  a.max_context_len = static_cast<int>(max_context_len);
  check_contexts(a, block_tables.size(1) * a.block_size, key_cache.size(0));
  check_queries(a, query.size(0));
  run_attention("prefix_attention", launch_prompt_attention, prompt_attention_workspace, a, query);
}

void write_kv(const Tensor& key, const Tensor& value, const Tensor& key_cache,
              const Tensor& value_cache, const Tensor& slot_mapping) {
  check_dims(key, "key", 3);
  check_dims(key_cache, "key_cache", 4);
  check_same_shape(value, "value", key, "key");
  check_same_shape(value_cache, "value_cache", key_cache, "key_cache");
  for (const Tensor* t : {&value, &key_cache, &value_cache}) check_same_kind(*t, key);
  check_dense(key, "key", 2);
  check_dense(value, "value", 2);
  check_dense(key_cache, "key_cache", 3);
  check_dense(value_cache, "value_cache", 3);
  check_slots(slot_mapping, key, key_cache.size(0) * key_cache.size(2));
  STD_TORCH_CHECK(key.size(1) == key_cache.size(1) && key.size(2) == key_cache.size(3),
                  "key has ", key.size(1), " heads of ", key.size(2), ", key_cache ",
                  key_cache.size(1), " of ", key_cache.size(3));
  if (key.numel() == 0) return;
  const auto bytes = static_cast<int64_t>(key.element_size());
  const LaunchScope scope(key);
  const WriteArguments arguments{
      key.data_ptr(), value.data_ptr(), key_cache.data_ptr(), value_cache.data_ptr(),
      static_cast<const int64_t*>(slot_mapping.data_ptr()), key.size(0),
      static_cast<int>(key.size(1)), static_cast<int>(key.size(2) * bytes),
      static_cast<int>(key_cache.size(2)), key.stride(0) * bytes, value.stride(0) * bytes,
      key_cache.stride(0) * bytes, value_cache.stride(0) * bytes};
  check_done(launch_write_kv(arguments, scope.launch), "write_kv");
}

void add_norm(const Tensor& out, const Tensor& residual, const Tensor& delta, const Tensor& weight,
              const MaybeTensor& bias, double eps) {
  check_dims(residual, "residual", 2);
  check_dims(weight, "weight", 1);
  check_same_shape(out, "out", residual, "residual");
  check_same_shape(delta, "delta", residual, "residual");
  check_count(weight.size(0), residual.size(1), "weights", "columns");
  if (bias) check_same_shape(*bias, "bias", weight, "weight");
  for (const Tensor* tensor : {&out, &residual, &delta, &weight, bias ? &*bias : &weight}) {
    check_same_kind(*tensor, residual);
    check_dense(*tensor, "every tensor", tensor->dim());
    check_chunks(*tensor, "every tensor", residual.size(1));
  }
  if (residual.numel() == 0) return;
  const LaunchScope scope(residual);
  const NormArguments arguments{
      data_type(residual), out.data_ptr(), residual.data_ptr(), delta.data_ptr(),
      weight.data_ptr(), bias ? bias->data_ptr() : nullptr, residual.size(0),
      static_cast<int>(residual.size(1)), static_cast<float>(eps)};
  check_done(launch_add_norm(arguments, scope.launch), "add_norm");
}

void gate(const Tensor& out, const Tensor& fused) {
  check_dims(out, "out", 2);
  check_dims(fused, "fused", 2);
  check_count(fused.size(0), out.size(0), "rows of fused", "rows of out");
  check_count(fused.size(1), 2 * out.size(1), "columns of fused", "gates and values");
  for (const Tensor* tensor : {&out, &fused}) {
    check_same_kind(*tensor, out);
    check_dense(*tensor, "every tensor", 2);
    check_chunks(*tensor, "every tensor", out.size(1));
  }
  if (out.numel() == 0) return;
  const LaunchScope scope(out);
  const GateArguments arguments{data_type(out), out.data_ptr(), fused.data_ptr(), out.size(0),
                                static_cast<int>(out.size(1))};
  check_done(launch_gate(arguments, scope.launch), "gate");
}

void rotate(const Tensor& heads, const Tensor& cos, const Tensor& sin) {
  check_dims(heads, "heads", 3);
  check_dims(cos, "cos", 2);
  check_same_shape(sin, "sin", cos, "cos");
  check_count(cos.size(0), heads.size(0), "rows of cos", "rows of heads");
  check_count(2 * cos.size(1), heads.size(2), "angles, twice,", "elements of a head");
  check_dense(heads, "heads", 2);
  check_chunks(heads, "heads", heads.stride(0));
  for (const Tensor* tensor : {&cos, &sin}) {
    check_same_kind(*tensor, heads);
    check_dense(*tensor, "every tensor", 2);
    check_chunks(*tensor, "every tensor", cos.size(1));
  }
  if (heads.numel() == 0) return;
  const LaunchScope scope(heads);
  const RotateArguments arguments{
      data_type(heads), heads.data_ptr(), cos.data_ptr(), sin.data_ptr(), heads.size(0),
      heads.stride(0), static_cast<int>(heads.size(1)), static_cast<int>(cos.size(1))};
  check_done(launch_rotate(arguments, scope.launch), "rotate");
}

// Caches of one shape, as pointers that `arguments` shows; `pairs` stays with the caller.
struct Blocks {
  std::vector<void*> pointers;
  BlockArguments arguments;
};

Blocks block_arguments(const std::vector<Tensor>& caches, const Tensor& pairs) {
  STD_TORCH_CHECK(!caches.empty(), "caches is empty");
  Blocks blocks;
  for (const Tensor& cache : caches) {
    check_same_shape(cache, "a cache", caches[0], "the first cache");
    check_same_kind(cache, caches[0]);
    check_dense(cache, "a cache", cache.dim());
    blocks.pointers.push_back(cache.data_ptr());
    check_aligned(blocks.pointers.back(), "a cache");
  }
  check_pairs(pairs);
  const int64_t num_blocks = std::max<int64_t>(caches[0].size(0), 1);
  const auto bytes = static_cast<int64_t>(caches[0].element_size());
  blocks.arguments = {blocks.pointers.data(), static_cast<int>(caches.size()),
                      caches[0].numel() / num_blocks * bytes,
                      static_cast<const int64_t*>(pairs.data_ptr()), pairs.size(0)};
  STD_TORCH_CHECK(blocks.arguments.block_bytes % 16 == 0, "a block of ",
                  blocks.arguments.block_bytes, " bytes is no multiple of 16");
  return blocks;
}

// Copies run as if one after another: a run of pairs that touch each other's blocks is cut.
void copy_blocks(const std::vector<Tensor>& caches, const Tensor& pairs) {
  const Blocks blocks = block_arguments(caches, pairs);
  const int64_t num_blocks = caches[0].size(0);
  check_block_range(blocks.arguments, 0, num_blocks, "source");
  check_block_range(blocks.arguments, 1, num_blocks, "destination");
  const LaunchScope scope(caches[0]);
  std::unordered_set<int64_t> read, written;
  BlockArguments run = blocks.arguments;
  int64_t first = 0;
  for (int64_t i = 0; i <= blocks.arguments.num_pairs; ++i) {
    const int64_t* pair = blocks.arguments.pairs + 2 * i;
    const bool end = i == blocks.arguments.num_pairs;
    if (end || written.count(pair[0]) || written.count(pair[1]) || read.count(pair[1])) {
      run.pairs = blocks.arguments.pairs + 2 * first;
      run.num_pairs = i - first;
      if (run.num_pairs > 0) check_done(launch_copy_blocks(run, scope.launch), "copy_blocks");
      read.clear();
      written.clear();
      first = i;
    }
    if (!end) {
      read.insert(pair[0]);
      written.insert(pair[1]);
    }
  }
}

void swap(const std::vector<Tensor>& caches, const Tensor& host_pool, const Tensor& staging,
          const Tensor& pairs, SwapDirection direction) {
  const Blocks blocks = block_arguments(caches, pairs);
  const auto bytes = static_cast<int64_t>(caches[0].element_size());
  const int64_t row_bytes = blocks.arguments.block_bytes * blocks.arguments.num_caches;
  check_pool(host_pool, "host_pool", caches[0], row_bytes);
  STD_TORCH_CHECK(host_pool.is_cpu(), "host_pool must be in host memory");
  check_same_kind(staging, caches[0]);
  check_pool(staging, "staging", caches[0], row_bytes);
  const bool out = direction == SwapDirection::kOut;
  check_block_range(blocks.arguments, out ? 0 : 1, caches[0].size(0), "device");
  check_block_range(blocks.arguments, out ? 1 : 0, host_pool.size(0), "host");
  if (blocks.arguments.num_pairs == 0) return;
  const LaunchScope scope(caches[0]);
  const SwapArguments arguments{blocks.arguments, host_pool.data_ptr(), staging.data_ptr(),
                                staging.numel() * bytes / row_bytes, direction};
  check_done(launch_swap_blocks(arguments, scope.launch), out ? "swap_out" : "swap_in");
}

void swap_out(const std::vector<Tensor>& caches, const Tensor& host_pool, const Tensor& staging,
              const Tensor& pairs) {
  swap(caches, host_pool, staging, pairs, SwapDirection::kOut);
}

void swap_in(const std::vector<Tensor>& caches, const Tensor& host_pool, const Tensor& staging,
             const Tensor& pairs) {
  swap(caches, host_pool, staging, pairs, SwapDirection::kIn);
}

}  // namespace

STABLE_TORCH_LIBRARY(ASTRA_NAMESPACE, m) {
  m.def(
      "paged_attention(Tensor(a!) out, Tensor query, Tensor key_cache, Tensor value_cache, "
      "Tensor block_tables, Tensor context_lens, float scale, int max_context_len) -> ()");
  m.def(
      "contiguous_attention(Tensor(a!) out, Tensor query, Tensor key_cache, Tensor value_cache, "
      "Tensor? start_offsets, Tensor context_lens, float scale, int max_context_len) -> ()");
  m.def(
      "prefix_attention(Tensor(a!) out, Tensor query, Tensor key_cache, Tensor value_cache, "
      "Tensor block_tables, Tensor context_lens, Tensor query_starts, float scale, "
      "int max_query_len, int max_context_len) -> ()");
  m.def(
      "write_kv(Tensor key, Tensor value, Tensor(a!) key_cache, Tensor(b!) value_cache, "
      "Tensor slot_mapping) -> ()");
  m.def(
      "add_norm(Tensor(a!) out, Tensor(b!) residual, Tensor delta, Tensor weight, Tensor? bias, "
      "float eps) -> ()");
  m.def("gate(Tensor(a!) out, Tensor fused) -> ()");
  m.def("rotate(Tensor(a!) heads, Tensor cos, Tensor sin) -> ()");
  m.def("copy_blocks(Tensor(a!)[] caches, Tensor pairs) -> ()");
  m.def(
      "swap_out(Tensor[] caches, Tensor(a!) host_pool, Tensor(b!) staging, Tensor pairs) -> ()");
  m.def(
      "swap_in(Tensor(a!)[] caches, Tensor host_pool, Tensor(b!) staging, Tensor pairs) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(ASTRA_NAMESPACE, ASTRA_DISPATCH_KEY, m) {
  m.impl("paged_attention", TORCH_BOX(&paged_attention));
  m.impl("contiguous_attention", TORCH_BOX(&contiguous_attention));
  m.impl("prefix_attention", TORCH_BOX(&prefix_attention));
  m.impl("write_kv", TORCH_BOX(&write_kv));
  m.impl("add_norm", TORCH_BOX(&add_norm));
  m.impl("gate", TORCH_BOX(&gate));
  m.impl("rotate", TORCH_BOX(&rotate));
  m.impl("copy_blocks", TORCH_BOX(&copy_blocks));
  m.impl("swap_out", TORCH_BOX(&swap_out));
  m.impl("swap_in", TORCH_BOX(&swap_in));
}
