-- unnest_select
select a, unnest([a, b, null]) as x from pairs;
-- unnest_of_a_group
select dept_id, unnest(array_agg(id order by id)) as id from employees group by dept_id;
-- unnest_two_lists
select a, unnest([a, b]) as x, unnest([b]) as y from pairs;
-- unnest_null_and_empty
select id, unnest(case when id % 3 = 0 then null when id % 3 = 1 then [id, id + 1] else [id][2:1] end) as x from employees;
-- unnest_null_beside_others
select id, unnest(case when id % 2 = 0 then [id, id + 1] end) as x, unnest([dept_id, id, 7]) as y from employees;
-- unnest_twice
--duckdb select a, unnest([[a, b], [b], null, []], recursive := true) as x from pairs
select a, unnest(unnest([[a, b], [b], null, make_array()])) as x from pairs;
-- unnest_struct
--duckdb select a, x.p, x.q from (select a, {'p': a + 1, 'q': b} as x from pairs)
select a, unnest(named_struct('p', a + 1, 'q', b)) from pairs;
-- unnest_list_of_structs
--duckdb select a, x.p, x.q from (select a, unnest([{'p': a, 'q': 1}, {'p': b, 'q': 2}]) as x from pairs)
select a, x['p'], x['q'] from (select a, unnest([named_struct('p', a, 'q', 1), named_struct('p', b, 'q', 2)]) as x from pairs) t;
-- unnest_in_from
select x + 1 as y from unnest([1, 2, null]) as t(x);
-- unnest_strings
select id, unnest(string_to_array(name, '_')) as part from employees;
-- unnest_grouped
select x, count(*) as n from (select unnest([a, b]) as x from pairs) t group by x;
-- unnest_filtered
select a, x from (select a, b, unnest([a, b]) as x from pairs) t where x > 2 and a < 5;
-- lateral
select p.a, u.x from pairs p, unnest([p.a, p.b]) as u(x);
-- lateral_filter
select p.a, u.x from pairs p cross join unnest([p.a, p.b, 7]) as u(x) where u.x > p.a;
-- lateral_two
select p.a, u.x, v.y from pairs p, unnest([p.a, p.b]) as u(x), unnest([u.x, 1]) as v(y);
-- lateral_left
select e.id, u.x from employees e left join unnest(case when e.id % 2 = 0 then [e.id, e.id + 1] end) as u(x) on true;
-- lateral_subquery
select p.a, t.y from pairs p, lateral (select u.x + 1 as y from unnest([p.a, p.b]) as u(x) where u.x > 2) as t;
-- lateral_behind_a_join
select e.id, d.name, u.x from employees e join departments d on e.dept_id = d.id, unnest([e.id, d.budget]) as u(x);
-- lateral_grouped
select u.x, sum(p.a) as s from pairs p, unnest([p.a, p.b]) as u(x) group by u.x;
-- lateral_on
select p.a, u.x from pairs p join unnest([p.a, p.b, 3]) as u(x) on u.x = p.b;
-- unnest_of_groups_ordered
--duckdb select region, product, n from (select region, product, unnest([3, null, 1, 2]) as n from (select region, product, sum(quantity) as s from sales group by region, product)) order by region, product, n
select region, product, unnest(make_array(3, null, 1, 2)) as n from (select region, product, sum(quantity) as s from sales group by region, product) t order by region, product, n;
-- unnest_of_groups_grouped
select region, product, n, count(*) as rows from (select region, product, unnest([3, 1, 3]) as n from (select region, product, sum(quantity) as s from sales group by region, product) t) u group by region, product, n;
-- unnest_of_groups_distinct
select distinct region, product, n from (select region, product, unnest([3, 1, 3]) as n from (select region, product, sum(quantity) as s from sales group by region, product) t) u;
-- unnest_of_groups_filtered
select n, region from (select region, product, unnest([3, 1, 3]) as n from (select region, product, sum(quantity) as s from sales group by region, product) t) u where n > 1 and product <> 'fig';
-- unnest_of_distinct_rows_ordered
--duckdb select region, product, n from (select region, product, unnest([3, null, 1, 2]) as n from (select distinct region, product from sales)) order by region, product, n
select region, product, unnest(make_array(3, null, 1, 2)) as n from (select distinct region, product from sales) t order by region, product, n;
-- unnest_of_distinct_rows_grouped
select region, product, n, count(*) as rows from (select region, product, unnest([3, 1, 3]) as n from (select distinct region, product from sales) t) u group by region, product, n;
