/* onnx_vectors.h - reads the ONNX operator test vectors (../shared/data/onnx-op-vectors). */
#ifndef HN_ONNX_VECTORS_H
#define HN_ONNX_VECTORS_H
#include <jansson.h>

#include <functional>

#include "hn_test.h"
#include "runtime/base/json.h"
#include "runtime/file/safetensors.h"

namespace onnx {

struct Tensor {
    std::string name, dtype; /* dtype as safetensors spells it: "F32", "I64", "BOOL" */
    std::vector<int64_t> shape;
    std::vector<double> values; /* exact for every type up to 53 bits */

    int64_t dim(int k) const { return shape[(size_t)(k < 0 ? k + (int)shape.size() : k)]; }
    std::vector<float> f32() const { return {values.begin(), values.end()}; }
    std::vector<int32_t> i32() const { return {values.begin(), values.end()}; }
};

inline double element(const hn_st_tensor &t, size_t i)
{
    const auto read = [&](auto v) {
        std::memcpy(&v, (const char *)t.data + i * sizeof v, sizeof v);
        return v;
    };
    switch (t.dtype) {
    case HN_ST_F64: return read(double());
    case HN_ST_F32: return (double)read(float());
    case HN_ST_F16: return (double)hn_f16_to_f32(read(hn_f16()));
    case HN_ST_BF16: return (double)hn_bf16_to_f32(read(hn_bf16()));
    case HN_ST_I64: return (double)read(int64_t());
    case HN_ST_U64: return (double)read(uint64_t());
    case HN_ST_I32: return (double)read(int32_t());
    case HN_ST_U32: return (double)read(uint32_t());
    case HN_ST_I16: return (double)read(int16_t());
    case HN_ST_U16: return (double)read(uint16_t());
    case HN_ST_I8: return (double)read(int8_t());
    case HN_ST_U8:
    case HN_ST_BOOL: return (double)read(uint8_t());
    default: ADD_FAILURE() << t.name << " is " << hn_st_dtype_name(t.dtype); return NAN;
    }
}

class Case {
    const json_t *entry_;

  public:
    std::string test, op;
    std::vector<std::string> node_inputs, node_outputs; /* "" where an optional one is absent */
    std::vector<Tensor> inputs, outputs;

    Case(const json_t *entry, const hn_st_file *file) : entry_(entry)
    {
        test = json_string_value(json_object_get(entry, "test"));
        op = json_string_value(json_object_get(entry, "op"));
        names("node_inputs", &node_inputs);
        names("node_outputs", &node_outputs);
        tensors("inputs", file, &inputs);
        tensors("outputs", file, &outputs);
    }
    /* Operand k of the operation; NULL when absent. */
    const Tensor *in(size_t k) const { return find(node_inputs, inputs, k); }
    const Tensor *out(size_t k) const { return find(node_outputs, outputs, k); }

    bool has(const char *name) const { return attribute(name) != nullptr; }
    double number(const char *name, double otherwise) const
    {
        const json_t *v = attribute(name);
        return v ? json_number_value(v) : otherwise;
    }
    int64_t integer(const char *name, int64_t otherwise) const
    {
        return (int64_t)number(name, (double)otherwise);
    }
    std::vector<int64_t> integers(const char *name) const /* empty when absent */
    {
        const json_t *list = attribute(name);
        std::vector<int64_t> v;
        for (size_t i = 0; i < json_array_size(list); i++)
            v.push_back((int64_t)json_integer_value(json_array_get(list, i)));
        return v;
    }
    std::string text(const char *name, const char *otherwise) const
    {
        const json_t *v = attribute(name);
        return json_is_string(v) ? json_string_value(v) : otherwise;
    }

  private:
    const json_t *attribute(const char *name) const
    {
        return json_object_get(json_object_get(entry_, "attributes"), name);
    }
    void names(const char *key, std::vector<std::string> *to) const
    {
        const json_t *list = json_object_get(entry_, key);
        for (size_t i = 0; i < json_array_size(list); i++)
            to->push_back(json_string_value(json_array_get(list, i)));
    }
    void tensors(const char *key, const hn_st_file *file, std::vector<Tensor> *to) const
    {
        const json_t *list = json_object_get(entry_, key);
        for (size_t i = 0; i < json_array_size(list); i++) {
            const json_t *item = json_array_get(list, i);
            const char *name = json_string_value(json_object_get(item, "tensor"));
            const hn_st_tensor *t = hn_st_find(file, name);
            ASSERT_NE(t, nullptr) << name;
            Tensor x = {json_string_value(json_object_get(item, "name")),
                        json_string_value(json_object_get(item, "dtype")),
                        {},
                        {}};
            size_t n = 1;
            for (int k = 0; k < t->ndim; k++) {
                x.shape.push_back(t->dim[k]);
                n *= (size_t)t->dim[k];
            }
            for (size_t k = 0; k < n; k++) x.values.push_back(element(*t, k));
            to->push_back(x);
        }
    }
    static const Tensor *find(const std::vector<std::string> &names,
                              const std::vector<Tensor> &list, size_t k)
    {
        if (k >= names.size() || names[k].empty()) return nullptr;
        for (const Tensor &t : list)
            if (t.name == names[k]) return &t;
        return nullptr;
    }
};

/* Calls fn for every vector of an operator; how many there were. */
inline int each(const std::string &dir, const std::string &op,
                const std::function<void(const Case &)> &fn)
{
    json_t *index = nullptr;
    hn_st_file *file = nullptr;
    int n = 0;
    EXPECT_HN_OK(hn_json_load((dir + "/index.json").c_str(), &index));
    EXPECT_HN_OK(hn_st_open((dir + "/vectors.safetensors").c_str(), &file));
    for (size_t i = 0; index && file && i < json_array_size(index); i++) {
        const json_t *entry = json_array_get(index, i);
        if (op != json_string_value(json_object_get(entry, "op"))) continue;
        const Case c(entry, file);
        SCOPED_TRACE(c.test);
        fn(c);
        n++;
    }
    hn_st_close(file);
    json_decref(index);
    return n;
}

} // namespace onnx
#endif
