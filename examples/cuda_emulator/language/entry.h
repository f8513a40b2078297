// The way in from Python: a kernel as a function of void**, the form in which a CUDA driver takes arguments too.
#pragma once
#include <string>
#include <type_traits>
#include <utility>

namespace cuda_emulator {

// A type as a code: i4 u8 f4 b1, V and its size for structures; c before it if it is const, * if it is pointed at.
template <class T>
std::string code() {
    if (std::is_pointer<T>::value) {
        using Element = typename std::remove_pointer<T>::type;
        if (std::is_void<Element>::value) return std::is_const<Element>::value ? "*cV" : "*V";
        using Sized = typename std::conditional<std::is_void<Element>::value, char, Element>::type;
        return std::string(std::is_const<Element>::value ? "*c" : "*") + code<typename std::remove_cv<Sized>::type>();
    }
    return kind<T>() + std::to_string(sizeof(T));
}

template <class T>
T& shared(int* id, const char* name) {
    using Element = typename std::remove_cv<typename std::remove_all_extents<T>::type>::type;
    return *static_cast<T*>(shared_variable(
        id, {name, kind<Element>(), sizeof(Element), {std::extent<T, 0>(), std::extent<T, 1>(), std::extent<T, 2>()}},
        sizeof(T)));
}

template <class T>
T* dynamic_shared(const char* name) {
    using Element = typename std::remove_cv<T>::type;
    return static_cast<T*>(dynamic_shared_memory({name, kind<Element>(), sizeof(Element), {}}));
}

template <class... Parameters>
std::string signature(void (*)(Parameters...)) {
    std::string codes;
    ((codes += code<typename std::remove_cv<Parameters>::type>() + ","), ...);
    return codes;
}

template <class... Parameters, size_t... Position>
void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<Position...>) {
    kernel(*static_cast<typename std::remove_cv<Parameters>::type*>(arguments[Position])...);
}

template <class... Parameters>
void call(void (*kernel)(Parameters...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<Parameters...>());
}

}  // namespace cuda_emulator

#define CUDA_EMULATOR_EXPORT extern "C" __attribute__((visibility("default")))

#define CUDA_EMULATOR_KERNEL(NAME, MOST_THREADS)                                             \
    CUDA_EMULATOR_EXPORT void cuda_emulator_call_##NAME(void** arguments) {                  \
        cuda_emulator::call(NAME, arguments);                                                \
    }                                                                                        \
    CUDA_EMULATOR_EXPORT const char* cuda_emulator_signature_##NAME() {                      \
        static const std::string codes = cuda_emulator::signature(NAME);                     \
        return codes.c_str();                                                                \
    }                                                                                        \
    CUDA_EMULATOR_EXPORT int cuda_emulator_most_threads_##NAME() { return int(MOST_THREADS); }
