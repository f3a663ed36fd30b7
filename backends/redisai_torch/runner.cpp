/* runner.cpp - loads and runs TorchScript without Python's lock, and limits PyTorch's memory. build_runner.py compiles
 * it; runner.py says what it runs.
 *
 * Python keeps the control: it makes and checks the module, then hands it over once, as an argument of the operator
 * redisai_runner::session. Workers enter the functions at the end, which src/direct/torch.c calls. Sessions do not
 * change. None of these functions throws or explains: where one fails, Python runs the op anew, and its error is the
 * client's. So only what has no effects but its outputs is run here. */
#include <malloc.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/function.h>
#include <ATen/core/ivalue.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/alloc_cpu.h>
#include <caffe2/serialize/read_adapter_interface.h>
#include <torch/csrc/jit/api/compilation_unit.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/library.h>

extern "C" {
#include "bridge.h" /* of src/, which is installed beside this file */
}

namespace {

using c10::IValue;
using c10::TypeKind;

struct Callable {
    torch::jit::Function *function;
    bool copies;                 /* it writes to its inputs, which are others' */
    std::vector<TypeKind> kinds; /* of a method's parameters: TensorType, or a type of numbers */
};

struct Session {
    IValue module; /* keeps the code alive; the first argument of a method */
    bool has_methods; /* else it stands for functions that are entry points: lists of tensors, of keys, of arguments */
    std::unordered_map<std::string, Callable> functions;
    at::Device device;
    int threads;
};

/* ---- sessions ---------------------------------------------------------------------------------------------------- */

TypeKind kind_of(const c10::Argument &argument) {
    const auto &type = argument.type();
    auto optional = type->cast<c10::OptionalType>();
    return optional ? optional->getElementType()->kind() : type->kind();
}

Callable callable_of(const Session &session, const std::string &name, bool copies) {
    auto object = session.module.toObject();
    Callable callable{nullptr, copies, {}};
    callable.function = session.has_methods ? object->type()->findMethod(name)
                                            : object->compilation_unit()->find_function(c10::QualifiedName(name));
    TORCH_CHECK(callable.function, "there is no function ", name);
    const auto &arguments = callable.function->getSchema().arguments();
    for (size_t i = session.has_methods; i < arguments.size(); i++) callable.kinds.push_back(kind_of(arguments[i]));
    return callable;
}

/* The address of a new session, for redisai_torch_close(). A module without methods stands for the functions of its
 * compilation unit. */
int64_t session(const IValue &module, const std::vector<std::string> &names, const std::vector<bool> &copies,
                at::Device device, int64_t threads) {
    bool has_methods = !module.toObject()->type()->methods().empty();
    auto made = std::make_unique<Session>(Session{module, has_methods, {}, device, (int)threads});
    for (size_t i = 0; i < names.size(); i++) made->functions[names[i]] = callable_of(*made, names[i], copies[i]);
    return (int64_t)made.release();
}

/* ---- archives ---------------------------------------------------------------------------------------------------- */

class Memory : public caffe2::serialize::ReadAdapterInterface {
public:
    explicit Memory(at::Tensor bytes) : bytes(std::move(bytes)) {}
    size_t size() const override { return bytes.numel(); }
    size_t read(uint64_t position, void *buffer, size_t count, const char *what) const override {
        if (position >= size()) return 0;
        count = std::min<size_t>(count, size() - position);
        memcpy(buffer, (const char *)bytes.const_data_ptr() + position, count);
        return count;
    }

private:
    at::Tensor bytes;
};

/* The module of an archive, its code in the compilation unit of another. Reads the bytes in place. */
IValue load(const IValue &other, const at::Tensor &bytes, at::Device device) {
    torch::jit::ExtraFilesMap none;
    auto unit = other.toObject()->compilation_unit();
    return torch::jit::import_ir_module(std::move(unit), std::make_shared<Memory>(bytes), device, none)._ivalue();
}

/* A function of another's compilation unit gets forward's inlined graph. Of a model of 1,500 layers this takes 60 ms. */
void inline_forward(const IValue &module, const IValue &other) {
    auto graph = torch::jit::toGraphFunction(module.toObject()->type()->getMethod("forward")).graph()->copy();
    torch::jit::Inline(*graph);
    other.toObject()->compilation_unit()->create_function(c10::QualifiedName("forward"), std::move(graph));
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

std::atomic<size_t> memory_used, memory_limit; /* bytes of tensors on the CPU */

void release(void *block) {
    memory_used -= malloc_usable_size(block);
    c10::free_cpu(block);
}

struct Limited : c10::Allocator {
    c10::DataPtr allocate(size_t size) override {
        size_t limit = memory_limit;
        TORCH_CHECK(size <= limit && memory_used <= limit - size, "can't allocate memory: you tried to allocate ", size,
                    " bytes; BACKEND_MEMORY_LIMIT sets how much there is");
        void *block = c10::alloc_cpu(size);
        memory_used += malloc_usable_size(block);
        return {block, block, &release, at::Device(at::kCPU)};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &release; }
    void copy_data(void *to, const void *from, size_t size) const override { memcpy(to, from, size); }
};

void limit_memory(int64_t bytes) {
    static Limited limited;
    memory_limit = bytes;
    c10::SetCPUAllocator(&limited, 1); /* PyTorch's own has priority 0 */
}

/* ---- runs -------------------------------------------------------------------------------------------------------- */

/* OpenMP keeps the number for each thread. A thread that has not set it uses every core. */
void prepare_thread(int threads) {
    static thread_local bool is_set;
    if (!is_set) at::set_num_threads(threads);
    is_set = true;
}

at::Tensor input_of(const TorchTensor &given, const Session &session, bool copies) {
    auto options = at::TensorOptions().dtype((c10::ScalarType)given.type);
    at::Tensor tensor = at::from_blob(given.data, at::IntArrayRef(given.shape, given.ndim), options);
    if (!session.device.is_cpu()) return tensor.to(session.device);
    return copies ? tensor.clone() : tensor;
}

IValue number_of(const at::Tensor &tensor, TypeKind kind) {
    TORCH_CHECK(tensor.numel() == 1);
    c10::Scalar number = tensor.item();
    switch (kind) {
    case TypeKind::BoolType: return number.toBool();
    case TypeKind::IntType: return number.toLong();
    case TypeKind::FloatType: return number.toDouble();
    case TypeKind::NumberType: return number;
    default: TORCH_CHECK(false);
    }
}

c10::List<std::string> strings_of(const Bytes *words, int count) {
    c10::List<std::string> list;
    for (int i = 0; i < count; i++) list.emplace_back(words[i].data, words[i].size);
    return list;
}

torch::jit::Stack arguments_of(const Session &session, const Callable &callable, const TorchCall &call) {
    torch::jit::Stack stack;
    if (session.has_methods) stack.push_back(session.module);
    c10::List<at::Tensor> tensors;
    for (int i = 0; i < call.ninputs; i++) {
        at::Tensor tensor = input_of(call.inputs[i], session, callable.copies);
        if (!session.has_methods) {
            tensors.push_back(std::move(tensor));
        } else if (callable.kinds.at(i) == TypeKind::TensorType) {
            stack.emplace_back(std::move(tensor));
        } else {
            stack.push_back(number_of(tensor, callable.kinds[i]));
        }
    }
    if (!session.has_methods) {
        stack.emplace_back(std::move(tensors));
        stack.emplace_back(strings_of(call.keys, call.nkeys));
        stack.emplace_back(strings_of(call.args, call.nargs));
    }
    return stack;
}

/* Appends all tensors of a result, also those within lists and tuples. */
void flatten(const IValue &result, std::vector<at::Tensor> &outputs) {
    if (result.isTensor()) {
        const at::Tensor &tensor = result.toTensor();
        TORCH_CHECK(tensor.defined() && tensor.layout() == c10::kStrided && !tensor.is_quantized());
        outputs.push_back(tensor.resolve_conj().resolve_neg().cpu().contiguous());
    } else if (result.isTuple()) {
        for (const IValue &item : result.toTupleRef().elements()) flatten(item, outputs);
    } else {
        for (const IValue &item : result.toListRef()) flatten(item, outputs);
    }
}

std::vector<at::Tensor> run(const Session &session, const TorchCall &call) {
    const Callable &callable = session.functions.at(call.function);
    prepare_thread(session.threads);
    c10::InferenceMode no_gradients; /* what needs some fails, and Python runs it */
    IValue result = (*callable.function)(arguments_of(session, callable, call));
    std::vector<at::Tensor> outputs;
    if (!result.isNone()) flatten(result, outputs);
    return outputs;
}

} // namespace

/* ---- what others call -------------------------------------------------------------------------------------------- */

TORCH_LIBRARY(redisai_runner, library) {
    library.def("load(Any other, Tensor bytes, Device device) -> Any", load);
    library.def("inline_forward(Any module, Any other) -> ()", inline_forward);
    library.def("limit_memory(int bytes) -> ()", limit_memory);
    library.def("session(Any module, str[] names, bool[] copies, Device device, int threads) -> int",
                [](const IValue &module, std::vector<std::string> names, c10::List<bool> copies, at::Device device,
                   int64_t threads) { return session(module, names, copies.vec(), device, threads); });
}

extern "C" {

/* Returns 0, with outputs for redisai_torch_free(); or -1. */
int redisai_torch_run(const void *session, const TorchCall *call, void **outputs) {
    try {
        *outputs = new std::vector<at::Tensor>(run(*(const Session *)session, *call));
        return 0;
    } catch (...) {
        return -1;
    }
}

int redisai_torch_count(const void *outputs) { return (int)((const std::vector<at::Tensor> *)outputs)->size(); }

void redisai_torch_get(const void *outputs, int index, TorchTensor *output) {
    const at::Tensor &tensor = (*(const std::vector<at::Tensor> *)outputs)[index];
    *output = {(void *)tensor.const_data_ptr(), tensor.sizes().data(), tensor.dim(), (int64_t)tensor.scalar_type(),
               tensor.nbytes()};
}

void redisai_torch_free(void *outputs) { delete (std::vector<at::Tensor> *)outputs; }

void redisai_torch_close(void *session) { delete (Session *)session; }
}
