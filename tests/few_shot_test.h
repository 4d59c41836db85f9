/* few_shot_test.h - a small vision transformer and episodes of striped images. */
#ifndef HN_FEW_SHOT_TEST_H
#define HN_FEW_SHOT_TEST_H
#include <map>

#include "classifier_test.h"
#include "model_test.h"
#include "runtime/data/episodes.h"

constexpr int32_t kWays = 3, kShot = 3, kQueries = 6;

/* Episodes of the stripes: classes 0..2 in another order each time, images by number. */
class Episodes {
  public:
    std::vector<hn_episode> all;
    Episodes(const StripedImages &s, int64_t n)
    {
        const hn_images *v = s.view();
        for (int64_t e = 0; e < n; e++) {
            auto &x = data_[e];
            for (int32_t c = 0; c < kWays; c++) {
                const int32_t label = (int32_t)((c + e) % kWays);
                int32_t support = 0, query = 0;
                for (int64_t i = e * 5; i < v->count; i++) {
                    if (v->label[i] != c) continue;
                    if (support < kShot - (e == 1 && c == 0)) { /* the second one is smaller */
                        x[0].push_back((int32_t)i), x[1].push_back(label), support++;
                    } else if (query < kQueries / kWays) {
                        x[2].push_back((int32_t)i), x[3].push_back(label), query++;
                    }
                }
            }
            hn_episode ep = {};
            ep.number = e, ep.way = kWays;
            ep.n_support = (int32_t)x[0].size(), ep.n_query = (int32_t)x[2].size();
            ep.support = x[0].data(), ep.support_label = x[1].data();
            ep.query = x[2].data(), ep.query_label = x[3].data();
            all.push_back(ep);
        }
    }

  private:
    std::map<int64_t, std::vector<int32_t>[4]> data_;
};

inline hn_vision_config few_shot_model()
{
    hn_vision_config c = small_model("vit-tiny-cifar", 4);
    c.vit.init_range = 0.3; /* attention that is not flat */
    c.vit.intermediate = 32;
    const float mean[] = {0.5f, 0.4f, 0.3f}, std[] = {0.25f, 0.2f, 0.3f};
    std::copy(mean, mean + 3, c.mean);
    std::copy(std, std + 3, c.std);
    return c;
}

#endif
