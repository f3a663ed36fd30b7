/* runner.cpp - loads and runs TorchScript without Python's lock, and limits PyTorch's memory. build_runner.py compiles
 * it; runner.py says what it runs.
 *
 * Python keeps the control: it makes and checks the module, then hands it over once, as an argument of the operator
 * redisai_runner::session. Workers enter the functions at the end, which src/direct/torch.c calls. Sessions do not
 * change. None of these functions throws or explains: where one fails, Python runs the op anew, and its error is the
 * client's. A function that calls Redis or runs models must not run twice. So this file keeps what such a function has
 * given, a result or an error, and Python goes on from there. */
#include <malloc.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/function.h>
#include <ATen/core/grad_mode.h>
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
    bool has_effects;            /* it calls Redis or runs models */
    std::vector<TypeKind> kinds; /* of a method's parameters: TensorType, or a type of numbers */
    std::vector<std::string> types; /* of a function's parameters */
};

struct Session {
    IValue module; /* keeps the code alive; the first argument of a method */
    bool has_methods; /* else it stands for functions */
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

Callable callable_of(const Session &session, const std::string &name, bool copies, bool has_effects) {
    auto object = session.module.toObject();
    Callable callable{nullptr, copies, has_effects, {}, {}};
    callable.function = session.has_methods ? object->type()->findMethod(name)
                                            : object->compilation_unit()->find_function(c10::QualifiedName(name));
    TORCH_CHECK(callable.function, "there is no function ", name);
    const auto &arguments = callable.function->getSchema().arguments();
    for (size_t i = session.has_methods; i < arguments.size(); i++) callable.kinds.push_back(kind_of(arguments[i]));
    if (session.has_methods) return callable;
    for (const c10::Argument &argument : arguments) callable.types.push_back(argument.type()->annotation_str());
    return callable;
}

/* The address of a new session, for redisai_torch_close(). A module without methods stands for the functions of its
 * compilation unit. */
int64_t session(const IValue &module, const std::vector<std::string> &names, const std::vector<bool> &copies,
                const std::vector<bool> &has_effects, at::Device device, int64_t threads) {
    bool has_methods = !module.toObject()->type()->methods().empty();
    auto made = std::make_unique<Session>(Session{module, has_methods, {}, device, (int)threads});
    for (size_t i = 0; i < names.size(); i++) {
        made->functions[names[i]] = callable_of(*made, names[i], copies[i], has_effects[i]);
    }
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

torch::jit::Stack arguments_of_method(const Session &session, const Callable &callable, const TorchCall &call) {
    torch::jit::Stack stack{session.module};
    for (int i = 0; i < call.ninputs; i++) {
        at::Tensor tensor = input_of(call.inputs[i], session, callable.copies);
        if (callable.kinds.at(i) == TypeKind::TensorType) {
            stack.emplace_back(std::move(tensor));
        } else {
            stack.push_back(number_of(tensor, callable.kinds[i]));
        }
    }
    return stack;
}

/* As scripts.py maps the inputs to parameters. */
torch::jit::Stack arguments_of_function(const Session &session, const Callable &callable, const TorchCall &call) {
    static const std::vector<std::string> entry_point{"List[Tensor]", "List[str]", "List[str]"};
    std::vector<at::Tensor> tensors;
    for (int i = 0; i < call.ninputs; i++) tensors.push_back(input_of(call.inputs[i], session, callable.copies));
    torch::jit::Stack stack;
    if (callable.types == entry_point) {
        stack.emplace_back(std::move(tensors));
        stack.emplace_back(strings_of(call.keys, call.nkeys));
        stack.emplace_back(strings_of(call.args, call.nargs));
        return stack;
    }
    auto next = tensors.begin();
    for (size_t i = 0; i < callable.types.size(); i++) {
        const std::string &type = callable.types[i];
        if (type == "List[Tensor]") {
            stack.emplace_back(std::vector<at::Tensor>(next, tensors.end()));
            next = tensors.end();
        } else if ((type == "Tensor" || type == "Optional[Tensor]") && next != tensors.end()) {
            stack.emplace_back(*next++);
        } else {
            TORCH_CHECK(callable.function->getSchema().arguments()[i].default_value());
            break;
        }
    }
    TORCH_CHECK(next == tensors.end());
    return stack;
}

/* Its elements one after another in the CPU's memory. */
at::Tensor plain(const at::Tensor &tensor) {
    TORCH_CHECK(tensor.defined() && tensor.layout() == c10::kStrided && !tensor.is_quantized());
    return tensor.resolve_conj().resolve_neg().cpu().contiguous();
}

TorchTensor given(const at::Tensor &tensor) {
    return {(void *)tensor.const_data_ptr(), tensor.sizes().data(), tensor.dim(), (int64_t)tensor.scalar_type(),
            tensor.nbytes()};
}

/* Appends all tensors of a result, also those within lists and tuples. */
void flatten(const IValue &result, std::vector<at::Tensor> &outputs) {
    if (result.isTensor()) {
        outputs.push_back(plain(result.toTensor()));
    } else if (result.isTuple()) {
        for (const IValue &item : result.toTupleRef().elements()) flatten(item, outputs);
    } else {
        for (const IValue &item : result.toListRef()) flatten(item, outputs);
    }
}

/* ---- functions that call Redis or run models --------------------------------------------------------------------- */

/* Of the latest such function that this thread has run, until its outputs are used. */
struct Outcome {
    const void *op;
    IValue result;
    std::exception_ptr error;
};

thread_local Outcome outcome;
thread_local const TorchCall *current; /* the script that this thread runs; NULL while it runs a model */
thread_local void *asking;             /* the op for which one of Python's operators is called, until it takes it */

template <typename T> struct Setting {
    T &place, before;
    Setting(T &place, T value) : place(place), before(place) { place = value; }
    ~Setting() { place = before; }
};

IValue run_once(const Callable &callable, torch::jit::Stack arguments, const TorchCall &call) {
    Setting<const TorchCall *> running(current, &call);
    try {
        IValue result = (*callable.function)(std::move(arguments));
        outcome = {call.op, result, nullptr};
        return result;
    } catch (...) {
        outcome = {call.op, {}, std::current_exception()};
        throw;
    }
}

IValue take_outcome() {
    Outcome taken = std::exchange(outcome, {});
    if (taken.error) std::rethrow_exception(taken.error);
    return taken.result;
}

/* Calls the operator of redis_calls.py. It takes Python's lock. */
void call_in_python(const char *name, torch::jit::Stack &stack) {
    Setting<void *> op(asking, current ? current->op : nullptr);
    Setting<const TorchCall *> none(current, nullptr);
    c10::Dispatcher::singleton().findSchemaOrThrow(name, "").callBoxed(stack);
}

std::string bytes_of(const IValue &numbers) {
    std::string bytes;
    for (const IValue &number : numbers.toListRef()) bytes.push_back((char)number.toInt());
    return bytes;
}

c10::List<int64_t> numbers_of(const char *text, size_t size) {
    c10::List<int64_t> numbers;
    for (size_t i = 0; i < size; i++) numbers.push_back((unsigned char)text[i]);
    return numbers;
}

/* A reply as redis_calls.py describes it. */
struct Flat {
    c10::List<int64_t> kinds, counts, integers;
    c10::List<std::string> texts;

    void add(const Reply &reply) {
        kinds.push_back(reply.type);
        if (reply.type == REPLY_STRING) texts.push_back(std::string(reply.text, reply.size));
        if (reply.type == REPLY_INTEGER) integers.push_back(reply.integer);
        if (reply.type != REPLY_ARRAY) return;
        counts.push_back(reply.count);
        for (int64_t i = 0; i < reply.count; i++) add(reply.items[i]);
    }
};

/* call(str[] words, int[][] numbers) -> (int[], int[], int[], str[]) */
void call_redis(const c10::OperatorHandle &, torch::jit::Stack *stack) {
    if (current == nullptr) return call_in_python("redisai::call", *stack);
    std::vector<std::string> words;
    for (const IValue &word : torch::jit::peek(*stack, 0, 2).toListRef()) words.push_back(word.toStringRef());
    for (const IValue &word : torch::jit::peek(*stack, 1, 2).toListRef()) words.push_back(bytes_of(word));
    std::vector<Bytes> bytes;
    for (const std::string &word : words) bytes.push_back({word.data(), word.size()});
    std::unique_ptr<Reply, void (*)(Reply *)> reply(
        current->host->call((Op *)current->op, bytes.data(), (int)bytes.size()), current->host->free_reply);
    torch::jit::drop(*stack, 2);
    if (reply->type == REPLY_ERROR) {
        stack->emplace_back(numbers_of(reply->text, reply->size));
        return call_in_python("redisai::refused", *stack); /* it raises */
    }
    Flat flat;
    flat.add(*reply);
    for (auto *list : {&flat.kinds, &flat.counts, &flat.integers}) stack->emplace_back(*list);
    stack->emplace_back(flat.texts);
}

/* Runs a model in C. False: Python must. failure: what redis_calls.py describes. */
bool run_in_c(const std::string &key, c10::ArrayRef<IValue> inputs, int64_t noutputs, std::vector<at::Tensor> &outputs,
              c10::List<int64_t> &failure) {
    const TorchCall &call = *current;
    Setting<const TorchCall *> none(current, nullptr);
    std::vector<at::Tensor> tensors;
    for (const IValue &input : inputs) {
        const at::Tensor &tensor = input.toTensor();
        if (tensor.layout() != c10::kStrided || tensor.is_quantized()) return false;
        tensors.push_back(plain(tensor));
    }
    if (tensors.size() > DIRECT_MAX || noutputs < 0 || noutputs > DIRECT_MAX) return false;
    std::vector<TorchTensor> views;
    for (const at::Tensor &tensor : tensors) views.push_back(given(tensor));
    char *text = nullptr;
    std::unique_ptr<struct Run, void (*)(struct Run *)> run(
        call.host->run_model((Op *)call.op, {key.data(), key.size()}, views.data(), (int)views.size(), (int)noutputs,
                             &text),
        call.host->free_run);
    if (text) failure = numbers_of(text, strlen(text));
    call.host->free_text(text);
    if (!run) return false;
    auto device = inputs.empty() ? at::Device(at::kCPU) : inputs[0].toTensor().device();
    for (int i = 0; i < noutputs; i++) {
        TorchTensor output;
        call.host->get_output(run.get(), i, &output);
        auto options = at::TensorOptions().dtype((c10::ScalarType)output.type);
        outputs.push_back(
            at::from_blob(output.data, at::IntArrayRef(output.shape, output.ndim), options).to(device, false, true));
    }
    return true;
}

/* run_model(str key, int[][] numbers, Tensor[] inputs, int outputs) -> Tensor[] */
void run_model(const c10::OperatorHandle &, torch::jit::Stack *stack) {
    std::vector<at::Tensor> outputs;
    c10::List<int64_t> failure;
    if (current) {
        auto numbers = torch::jit::peek(*stack, 1, 4).toListRef();
        std::string key = numbers.empty() ? torch::jit::peek(*stack, 0, 4).toStringRef() : bytes_of(numbers[0]);
        if (run_in_c(key, torch::jit::peek(*stack, 2, 4).toListRef(), torch::jit::peek(*stack, 3, 4).toInt(), outputs,
                     failure)) {
            torch::jit::drop(*stack, 4);
            stack->emplace_back(outputs);
            return;
        }
    }
    if (failure.empty()) return call_in_python("redisai::run_model", *stack);
    stack->emplace_back(failure);
    call_in_python("redisai::run_failed_model", *stack);
}

/* ---- a run ------------------------------------------------------------------------------------------------------- */

std::vector<at::Tensor> run(const Session &session, const TorchCall &call) {
    const Callable &callable = session.functions.at(call.function);
    if (callable.has_effects) outcome = {};
    prepare_thread(session.threads);
    c10::InferenceMode no_gradients(!callable.has_effects); /* what needs some fails, and Python runs it */
    at::NoGradGuard as_in_python;
    auto arguments = session.has_methods ? arguments_of_method(session, callable, call)
                                         : arguments_of_function(session, callable, call);
    IValue result = callable.has_effects ? run_once(callable, std::move(arguments), call)
                                         : (*callable.function)(std::move(arguments));
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
    library.def("session(Any module, str[] names, bool[] copies, bool[] has_effects, Device device, int threads) -> int",
                [](const IValue &module, std::vector<std::string> names, c10::List<bool> copies,
                   c10::List<bool> has_effects, at::Device device, int64_t threads) {
                    return session(module, names, copies.vec(), has_effects.vec(), device, threads);
                });
    library.def("take_outcome() -> Any", take_outcome);
    /* CONSERVATIVE: the compiler keeps a call whose result is not used. */
    auto kept = [](const char *text) { return torch::schema(text, c10::AliasAnalysisKind::CONSERVATIVE); };
    library.def(kept("call(str[] words, int[][] numbers) -> (int[], int[], int[], str[])"),
                torch::CppFunction::makeFromBoxedFunction<&call_redis>());
    library.def(kept("run_model(str key, int[][] numbers, Tensor[] inputs, int outputs) -> Tensor[]"),
                torch::CppFunction::makeFromBoxedFunction<&run_model>());
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
    *output = given((*(const std::vector<at::Tensor> *)outputs)[index]);
}

/* are_used: else Python goes on from what the function has given. */
void redisai_torch_free(void *outputs, int are_used) {
    delete (std::vector<at::Tensor> *)outputs;
    if (are_used) outcome = {};
}

/* Whether this op's function has run in this thread, and must not run again. */
int redisai_torch_has_outcome(const void *op) { return op && outcome.op == op; }

/* The op for which an operator of Python's is called; NULL: none. It is given once. */
void *redisai_torch_take_asking(void) { return std::exchange(asking, nullptr); }

void redisai_torch_close(void *session) { delete (Session *)session; }
}
